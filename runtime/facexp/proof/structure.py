"""Step 1 of the proof: are the bundle's files those of its manifest, and does the manifest make sense?

Checks names, shapes, dtypes and label order, the preprocessing, the hash of every file, and each file's own metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facexp.bundle import Bundle, EmotionSpec, FileSpec, KeypointsSpec, ModelSpec, digest, load_models, read_manifest
from facexp.engines import ENGINES
from facexp.errors import BundleError, DeviceError
from facexp.geometry import KEYPOINTS, Points
from facexp.proof.verdict import Check, Step
from facexp.session import Session

TASKS: tuple[str, ...] = ("keypoints", "emotion")

_METADATA_KEYS = ("input", "outputs", "labels", "preprocessing")
# the training square holds one whole face, so its side is between half of and twice that of the detector's box
_SCALE_RANGE = (0.5, 2.0)
_MAX_SHIFT = 0.5


def structure(directory: Path, tasks: Sequence[str] = TASKS) -> Step:
    """Carry out step 1 for the bundle in a directory, which must contain the models of these tasks.

    A manifest that the runtime rejects fails the step, with the runtime's own message.
    """
    what = "manifest: labels, inputs, outputs and preprocessing"
    try:
        if set(tasks) == set(TASKS):
            Bundle.load(directory)
        models = load_models(directory)
    except BundleError as error:
        return Step(1, (Check(what, passed=False, note=str(error)),))
    checks = [Check(what, passed=True)]
    notes: list[str] = []
    unsupported: list[str] = []
    entries = read_manifest(directory).child("models").value
    for model in models:
        checks += _preprocessing(model)
        for file in model.files.values():
            checks += _file(directory, model, file, entries[model.name], notes, unsupported)
    return Step(1, tuple(checks), tuple(notes), tuple(unsupported))


def _preprocessing(model: ModelSpec) -> Iterator[Check]:
    """Check for values that are valid by themselves but would misplace every crop."""
    if isinstance(model, KeypointsSpec):
        yield _face_shape(model, "mean_shape", model.mean_shape)
        framing = model.framing
        plausible = (
            _SCALE_RANGE[0] <= framing.scale <= _SCALE_RANGE[1] and max(abs(framing.dx), abs(framing.dy)) <= _MAX_SHIFT
        )
        note = (
            f"{framing}: expected a scale of {_SCALE_RANGE[0]} to {_SCALE_RANGE[1]} and shifts of at most {_MAX_SHIFT} "
            "of the box; export the bundle again"
        )
        yield Check("framing holds a face", model.name, passed=plausible, note="" if plausible else note)
    if isinstance(model, EmotionSpec):
        yield _face_shape(model, "template", model.template)


def _face_shape(model: ModelSpec, key: str, points: Points) -> Check:
    """Check that points form a face: inside the crop, large enough, upright, and with left and right not swapped."""
    x, y = points.T
    at = KEYPOINTS.index
    faults = []
    if points.min() < 0 or points.max() > model.size - 1:
        faults.append(f"points lie outside the {model.size} px crop")
    if np.ptp(points, axis=0).min() < model.size / 4:
        faults.append(f"the face is smaller than a quarter of the {model.size} px crop")
    # "left" is the person's left, which is on the right in the picture
    for name in ("left_eye_center", "left_eyebrow_inner_end", "mouth_left_corner"):
        if x[at(name)] <= x[at(name.replace("left", "right"))]:
            faults.append(f"{name} is not to the right of {name.replace('left', 'right')} in the picture")
    if not y[at("left_eyebrow_inner_end")] < y[at("left_eye_center")] < y[at("nose_tip")] < y[at("mouth_left_corner")]:
        faults.append("eyebrow, eye, nose and mouth are not in this order from top to bottom")
    return Check(f"{key} is a face", model.name, passed=not faults, note="; ".join(faults))


def _file(
    directory: Path,
    model: ModelSpec,
    file: FileSpec,
    entry: Mapping[str, Any],
    notes: list[str],
    unsupported: list[str],
) -> Iterator[Check]:
    path = directory / file.file
    try:
        sha256, size = digest(path)
    except OSError as error:
        note = f"{file.file} cannot be read ({error.strerror or error}); export or install the bundle again"
        yield Check("sha256", model.name, file.key, passed=False, note=note)
        return
    if (sha256, size) != (file.sha256, file.bytes):
        note = (
            f"{file.file} has {size:,} bytes and sha256 {sha256[:12]}..., the manifest says {file.bytes:,} and "
            f"{file.sha256[:12]}...; the file is damaged or was replaced, export or install the bundle again"
        )
        yield Check("sha256", model.name, file.key, passed=False, note=note)
        return
    yield Check("sha256", model.name, file.key, passed=True)
    if file.format not in ENGINES:
        unsupported.append(f"{file.file}: not opened, the runtime has no engine for {file.format}")
        return
    try:
        session = Session(path.read_bytes(), model, file.key)
    except DeviceError as error:
        notes.append(f"{file.file}: not opened, {error}")
        return
    except BundleError as error:
        yield Check("opens, with the manifest's tensors", model.name, file.key, passed=False, note=str(error))
        return
    yield Check("opens, with the manifest's tensors", model.name, file.key, passed=True)
    yield _metadata(model, file, session.metadata, entry)


def _metadata(model: ModelSpec, file: FileSpec, text: str | None, entry: Mapping[str, Any]) -> Check:
    """Compare the file's own metadata with the manifest's entry of its model."""
    what = "metadata is the manifest's"
    try:
        metadata = json.loads(text) if text else None
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        note = f"{file.file} has no metadata; export the bundle again"
        return Check(what, model.name, file.key, passed=False, note=note)
    differing = [key for key in _METADATA_KEYS if metadata.get(key) != entry[key]]
    note = f"{file.file} differs from the manifest in {', '.join(differing)}; export the bundle again"
    return Check(what, model.name, file.key, passed=not differing, note=note if differing else "")
