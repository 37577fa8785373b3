"""Step 1 of the proof: are the bundle's files those of its manifest, and does the manifest make sense?

Names, shapes, dtypes and label order, the preprocessing, the hash of every file, and what each file says of itself.
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
from facexp.proof import Check, Step
from facexp.session import Session

TASKS: tuple[str, ...] = ("keypoints", "emotion")

_DESCRIBED = ("input", "outputs", "labels", "preprocessing")
# the training square holds a whole face, so it is neither a part of the detector's box nor several of them
_SCALES = (0.5, 2.0)
_MOST_SHIFT = 0.5


def structure(directory: Path, tasks: Sequence[str] = TASKS) -> Step:
    """Step 1 for the bundle in a directory, which must hold these models.

    A manifest that the runtime refuses fails the step with the runtime's own message.
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
    never: list[str] = []
    entries = read_manifest(directory).child("models").value
    for model in models:
        checks += _preprocessing(model)
        for file in model.files.values():
            checks += _file(directory, model, file, entries[model.name], notes, never)
    return Step(1, tuple(checks), tuple(notes), tuple(never))


def _preprocessing(model: ModelSpec) -> Iterator[Check]:
    """What would put every crop beside the face, although each number for itself is a number."""
    if isinstance(model, KeypointsSpec):
        yield _shape(model, "mean_shape", model.mean_shape)
        framing = model.framing
        good = _SCALES[0] <= framing.scale <= _SCALES[1] and max(abs(framing.dx), abs(framing.dy)) <= _MOST_SHIFT
        note = (
            f"{framing}: expected a scale of {_SCALES[0]} to {_SCALES[1]} and shifts of at most {_MOST_SHIFT} of the "
            "box; export again"
        )
        yield Check("framing holds a face", model.name, passed=good, note="" if good else note)
    if isinstance(model, EmotionSpec):
        yield _shape(model, "template", model.template)


def _shape(model: ModelSpec, key: str, points: Points) -> Check:
    """The points of a face: inside the crop, as large as one, upright, and left and right not exchanged."""
    x, y = points.T
    at = KEYPOINTS.index
    faults = []
    if points.min() < 0 or points.max() > model.size - 1:
        faults.append(f"points lie outside the {model.size} px crop")
    if np.ptp(points, axis=0).min() < model.size / 4:
        faults.append(f"the face is smaller than a quarter of the {model.size} px crop")
    # "left" is the person's, which is on the right of the picture
    for name in ("left_eye_center", "left_eyebrow_inner_end", "mouth_left_corner"):
        if x[at(name)] <= x[at(name.replace("left", "right"))]:
            faults.append(f"{name} is not right of {name.replace('left', 'right')} in the picture")
    if not y[at("left_eyebrow_inner_end")] < y[at("left_eye_center")] < y[at("nose_tip")] < y[at("mouth_left_corner")]:
        faults.append("brow, eye, nose and mouth do not follow each other downwards")
    return Check(f"{key} is a face", model.name, passed=not faults, note="; ".join(faults))


def _file(
    directory: Path, model: ModelSpec, file: FileSpec, entry: Mapping[str, Any], notes: list[str], never: list[str]
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
        never.append(f"{file.file}: not opened, the runtime has nothing that runs a {file.format}")
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
    """What the file says of itself, against the manifest's entry of its model."""
    what = "metadata is the manifest's"
    try:
        says = json.loads(text) if text else None
    except (ValueError, RecursionError):
        says = None
    if not isinstance(says, dict):
        return Check(what, model.name, file.key, passed=False, note=f"{file.file} says nothing of itself; export again")
    wrong = [key for key in _DESCRIBED if says.get(key) != entry[key]]
    note = f"{file.file} has another {', '.join(wrong)} than the manifest; export again" if wrong else ""
    return Check(what, model.name, file.key, passed=not wrong, note=note)
