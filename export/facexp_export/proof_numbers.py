"""Step 2 of the proof: comparison of a file's answers on real faces with those of the trained model.

The export has stored the trained model's answers, with a hash of each crop instead of the crop. With the same data the
same crops can be cut again, so neither TensorFlow nor the trained model is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp.arrays import expect_array, read_arrays
from facexp.proof.verdict import Check, with_verdict
from facexp_export.manifest import REFERENCE
from facexp_export.recipe import MIN_PARITY_CROPS, Tolerances
from facexp_export.tasks import Outputs, Task

# The trained model's answers must vary across faces, or agreement with it would prove nothing.
MAX_CLASS_SHARE = 0.98
"""Maximum share of faces with the same answer."""
MIN_SPREAD_PX = 0.5
"""Minimum standard deviation of the points across faces, in pixels of the crop."""
SINGLE_CROPS = 32
"""Number of crops that are also run one at a time, and compared with the same crops in one batch."""

SPREAD = "spread across faces"
UNITS = {"points": "px", "logits": "logit"}


@dataclass(frozen=True, slots=True)
class Reference:
    """The trained model's stored answers."""

    hashes: NDArray[np.uint8]
    """uint8 (N, 32): the SHA-256 of each crop's bytes."""
    outputs: Outputs
    """float32 (N, ...) by output name."""

    @classmethod
    def read(cls, directory: Path, task: Task) -> Reference:
        """Read the task's part of reference.npz; BundleError if it is missing or damaged."""
        path = directory / REFERENCE
        arrays = read_arrays(path)
        names = [name for name in task.outputs if f"{task.name}_{name}" in arrays] or task.outputs[:1]
        expect_array(path, arrays, f"{task.name}_crops", "uint8", (None, 32))
        hashes = arrays[f"{task.name}_crops"]
        for name in names:
            expect_array(path, arrays, f"{task.name}_{name}", "float32", (len(hashes), *task.shape))
        outputs = {name: np.asarray(arrays[f"{task.name}_{name}"], np.float32) for name in names}
        return cls(np.asarray(hashes, np.uint8), outputs)


def crop_hashes(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return uint8 (N, 32), the SHA-256 of the bytes of each of N crops."""
    digests = [hashlib.sha256(crop.tobytes()).digest() for crop in crops]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(crops), 32)


def check_reference(task: Task, reference: Reference, crops: NDArray[np.uint8]) -> Iterator[Check]:
    """Check that the reference belongs to these crops, that there are enough, and that the answers vary across them."""
    same = len(crops) == len(reference.hashes) and bool((crop_hashes(crops) == reference.hashes).all())
    note = "the data, its reader or the cropping has changed; give the data of the export, or export the run again"
    yield Check("crops are those that the export saw", task.name, passed=same, note="" if same else note)
    count = len(reference.hashes)
    few = f"{count} crops, at least {MIN_PARITY_CROPS} are needed; export with more faces"
    note = "" if count >= MIN_PARITY_CROPS else few
    yield Check(f"at least {MIN_PARITY_CROPS} real crops", task.name, passed=not note, note=note)
    for name, values in reference.outputs.items():
        yield Check(SPREAD, task.name, output=name, value=spread_of(values), unit=UNITS[task.kind])
        if task.kind == "logits":
            share = float(np.bincount(values.argmax(axis=1)).max() / len(values))
            check = Check("share of the trained model's commonest answer", task.name, output=name, value=share)
            reason = "a model that says the same of every face is easily agreed with"
            yield with_verdict(replace(check, limit=MAX_CLASS_SHARE, note=reason))
        else:
            moves = float(values.std(axis=0).mean())
            note = f"{moves:.2f} px, at least {MIN_SPREAD_PX} are needed: nearly constant points are easily agreed with"
            good = moves >= MIN_SPREAD_PX
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
    """Yield the largest, 99.9th percentile and mean difference of each output, in its unit and over its spread.

    The spread across faces is defined in `spread_of`. For a float32 file the largest difference has a limit, for files
    of lower precision the mean, because the largest rounding error means little.
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
            yield relative if limit is None else with_verdict(replace(relative, limit=limit, note=why))


def spread_of(values: NDArray[np.float32]) -> float:
    """Return the standard deviation of `values` (N, ...) over N faces, as root mean square over an output's numbers."""
    return max(float(np.sqrt(values.astype(np.float64).var(axis=0).mean())), 1e-12)


def compare_batches(task: Task, key: str, alone: Outputs, together: Outputs, limit: float) -> Iterator[Check]:
    """Compare a file's answers to the same crops, one at a time and in one batch; `limit` is over the spread."""
    for name, values in together.items():
        value = float(np.abs(alone[name].astype(np.float64) - values).max()) / spread_of(values)
        what = "largest difference of one at a time and one batch, over the spread"
        yield with_verdict(Check(what, task.name, key, name, value=value, limit=limit))
