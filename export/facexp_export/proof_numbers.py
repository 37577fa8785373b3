"""Step 2 of the proof: do a file's answers on real faces equal those of the trained model?

What the trained model answered was kept by the export, with a hash of every crop and without the crops: whoever has the
faces cuts the same crops anew and needs neither TensorFlow nor the trained model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp.arrays import expect, read_arrays
from facexp.proof import Check, held
from facexp_export.manifest import REFERENCE
from facexp_export.recipe import PARITY_LEAST, Tolerances
from facexp_export.tasks import Outputs, Task

# What the trained model itself must show on the faces, or agreeing with it would prove nothing.
LARGEST_CLASS = 0.98
LEAST_SPREAD_PX = 0.5
SINGLE = 32
"""How many crops are also run one at a time, against the same crops in one batch."""

SPREAD = "spread across faces"
UNITS = {"points": "px", "logits": "logit"}


@dataclass(frozen=True, slots=True)
class Reference:
    """What the trained model answered."""

    hashes: NDArray[np.uint8]
    """(N, 32) sha256 of each crop's bytes."""
    outputs: Outputs
    """float32 (N, ...) by name."""

    @classmethod
    def read(cls, directory: Path, task: Task) -> Reference:
        """The task's part of reference.npz; BundleError where it is missing or damaged."""
        path = directory / REFERENCE
        arrays = read_arrays(path)
        names = [name for name in task.outputs if f"{task.name}_{name}" in arrays] or task.outputs[:1]
        expect(path, arrays, f"{task.name}_crops", "uint8", (None, 32))
        hashes = arrays[f"{task.name}_crops"]
        for name in names:
            expect(path, arrays, f"{task.name}_{name}", "float32", (len(hashes), *task.shape))
        outputs = {name: np.asarray(arrays[f"{task.name}_{name}"], np.float32) for name in names}
        return cls(np.asarray(hashes, np.uint8), outputs)


def crop_hashes(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 32) sha256 of the bytes of each of N crops."""
    digests = [hashlib.sha256(crop.tobytes()).digest() for crop in crops]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(crops), 32)


def check_reference(task: Task, reference: Reference, crops: NDArray[np.uint8]) -> Iterator[Check]:
    """Is the reference of these crops, are there enough, and does the trained model tell them apart?"""
    same = len(crops) == len(reference.hashes) and bool((crop_hashes(crops) == reference.hashes).all())
    note = "the data, its reader or the cutting has changed; give the data of the export, or export the run again"
    yield Check("crops are those that the export saw", task.name, passed=same, note="" if same else note)
    count = len(reference.hashes)
    note = "" if count >= PARITY_LEAST else f"{count} crops, at least {PARITY_LEAST} are needed; export with more faces"
    yield Check(f"at least {PARITY_LEAST} real crops", task.name, passed=not note, note=note)
    for name, values in reference.outputs.items():
        yield Check(SPREAD, task.name, output=name, value=spread_of(values), unit=UNITS[task.kind])
        if task.kind == "logits":
            share = float(np.bincount(values.argmax(axis=1)).max() / len(values))
            check = Check("share of the trained model's commonest answer", task.name, output=name, value=share)
            reason = "a model that says the same of every face is easily agreed with"
            yield held(replace(check, limit=LARGEST_CLASS, note=reason))
        else:
            moves = float(values.std(axis=0).mean())
            note = f"{moves:.2f} px, where {LEAST_SPREAD_PX} are asked: easily agreed with"
            good = moves >= LEAST_SPREAD_PX
            yield Check(
                "trained model's points move from face to face",
                task.name,
                output=name,
                passed=good,
                note="" if good else note,
            )


def compare(
    task: Task, key: str, precision: str, answers: Outputs, reference: Outputs, tolerances: Tolerances
) -> Iterator[Check]:
    """Largest, 99.9th percentile and mean difference of each output, in its unit and over its spread across faces.

    The spread is the standard deviation over the faces, root mean square over the output's numbers. Of a float32 file
    the largest difference is judged, and of one with fewer bits the mean: rounding has no largest that says much.
    """
    limits = {
        "float32": {"largest": (tolerances.float32_spread, tolerances.why)},
        "float16": {"mean": (tolerances.float16_mean_spread, tolerances.float16_why)},
        "int8": {"mean": (tolerances.rounded_mean_spread, tolerances.rounded_why)},
    }[precision]
    unit = UNITS[task.kind]
    for name, wanted in reference.items():
        about = Check("", task.name, key, name)
        if name not in answers or answers[name].shape != wanted.shape:
            yield replace(about, what="answers", passed=False, note="the file lacks this output, or has another shape")
            continue
        difference = np.abs(answers[name].astype(np.float64) - wanted)
        spread = spread_of(wanted)
        for what, value in (
            ("largest difference", float(difference.max())),
            ("99.9th percentile of the difference", float(np.percentile(difference, 99.9))),
            ("mean difference", float(difference.mean())),
        ):
            yield replace(about, what=what, value=value, unit=unit)
            relative = replace(about, what=f"{what} over the spread", value=value / spread)
            limit, why = limits.get(what.split()[0], (None, ""))
            yield relative if limit is None else held(replace(relative, limit=limit, note=why))


def spread_of(values: NDArray[np.float32]) -> float:
    """Standard deviation of (N, ...) outputs over the faces, root mean square over the output's numbers."""
    return max(float(np.sqrt(values.astype(np.float64).var(axis=0).mean())), 1e-12)


def compare_batches(task: Task, key: str, alone: Outputs, together: Outputs, limit: float) -> Iterator[Check]:
    """The same crops through the same file, one at a time and in one batch; `limit` is over the spread across faces."""
    for name, values in together.items():
        value = float(np.abs(alone[name].astype(np.float64) - values).max()) / spread_of(values)
        what = "largest difference of one at a time and one batch, over the spread"
        yield held(Check(what, task.name, key, name, value=value, limit=limit))
