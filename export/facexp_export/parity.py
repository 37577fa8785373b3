"""Does an exported file do what the trained model does? Measured on real faces, worst case included.

Which figures are taken, and how far they may go, depends on the kind of an output: see METRICS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facexp_export.errors import ParityError
from facexp_export.tasks import Kind

Array = NDArray[np.float32]
Outputs = dict[str, Array]
Precision = Literal["float32", "int8"]

# Float sums in another order move the baseline's points by 0.0001 px at most and its logits by 0.000003; a convolution
# that is off by 2% moves them by far more than these limits.
FLOAT32_POINTS_PX = 0.01
FLOAT32_LOGITS = 1e-3

# A quarter of a pixel of the crop is about 0.7% of the distance between the eyes, a tenth of the networks' own error.
INT8_POINTS_MEAN_PX = 0.25
# Nor may a few faces carry what the mean hides: a whole pixel is still inside the width of a mouth corner.
INT8_POINTS_P99_PX = 1.0
# One point that is off for everyone would vanish among the other fourteen.
INT8_WORST_POINT_MEAN_PX = 0.5

# Where two labels are almost equally likely, rounding may swap them; more than 3% is more than such ties.
INT8_LABEL_AGREEMENT = 0.97
# Probabilities that users threshold on must not move by more than they can read: 2 points on average ...
INT8_PROBABILITY_MEAN = 0.02
# ... and a face in a hundred by a quarter at most.
INT8_PROBABILITY_P99 = 0.25

# What the trained model itself must show on the faces, or agreeing with it would prove nothing.
REFERENCE_SPREAD_PX = 0.5
REFERENCE_LARGEST_CLASS = 0.98


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure about two outputs (N, ...), the trained model's and the file's, and its limit for each precision.

    A limit of None: the figure is reported, not judged.
    """

    name: str
    unit: str
    measure: Callable[[Array, Array], float]
    float32: float | None = None
    int8: float | None = None
    at_least: bool = False
    """The limit is a lower one."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure that was taken."""

    precision: Precision
    output: str
    metric: str
    unit: str
    value: float
    limit: float | None
    at_least: bool

    @property
    def passed(self) -> bool:
        """Whether the value keeps to its limit; a value that is not a number never does."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def _largest(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max())


def _displacements(a: Array, b: Array) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(a.astype(np.float64) - b, axis=-1))


def softmax(logits: Array) -> NDArray[np.float64]:
    """Probabilities over the last axis."""
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def _probability_differences(a: Array, b: Array) -> NDArray[np.float64]:
    return np.abs(softmax(a) - softmax(b))


METRICS: dict[Kind, tuple[Metric, ...]] = {
    "points": (
        Metric("largest difference", "px", _largest, float32=FLOAT32_POINTS_PX),
        Metric("mean displacement", "px", lambda a, b: float(_displacements(a, b).mean()), int8=INT8_POINTS_MEAN_PX),
        Metric(
            "99th percentile displacement",
            "px",
            lambda a, b: float(np.percentile(_displacements(a, b), 99)),
            int8=INT8_POINTS_P99_PX,
        ),
        Metric(
            "mean displacement of the worst point",
            "px",
            lambda a, b: float(_displacements(a, b).mean(axis=0).max()),
            int8=INT8_WORST_POINT_MEAN_PX,
        ),
    ),
    "logits": (
        Metric("largest difference", "logit", _largest, float32=FLOAT32_LOGITS),
        Metric(
            "label agreement",
            "share",
            lambda a, b: float((a.argmax(axis=-1) == b.argmax(axis=-1)).mean()),
            int8=INT8_LABEL_AGREEMENT,
            at_least=True,
        ),
        Metric(
            "mean probability difference",
            "probability",
            lambda a, b: float(_probability_differences(a, b).mean()),
            int8=INT8_PROBABILITY_MEAN,
        ),
        Metric(
            "99th percentile of a face's largest probability difference",
            "probability",
            lambda a, b: float(np.percentile(_probability_differences(a, b).max(axis=-1), 99)),
            int8=INT8_PROBABILITY_P99,
        ),
        Metric(
            "largest probability difference", "probability", lambda a, b: float(_probability_differences(a, b).max())
        ),
    ),
}
"""What is measured, by kind of output. The first metric of a kind also judges one face at a time against a batch."""


def check_reference(reference: Outputs, kind: Kind) -> None:
    """Raise ParityError when the trained model answers (nearly) the same for every face: agreeing is easy then."""
    for name, values in reference.items():
        if not np.isfinite(values).all():
            raise ParityError(f"{name}: the trained model gives values that are not finite; parity cannot be checked")
        if kind == "points":
            spread = float(values.std(axis=0).mean())
            if spread < REFERENCE_SPREAD_PX:
                raise ParityError(
                    f"{name}: the trained model's points vary by only {spread:.3f} px over {len(values)} faces; "
                    "parity would prove nothing. Train the network first"
                )
        else:
            counts = np.bincount(values.argmax(axis=-1), minlength=values.shape[-1])
            if counts.max() > REFERENCE_LARGEST_CLASS * len(values):
                raise ParityError(
                    f"{name}: the trained model gives {counts.max()} of {len(values)} faces the same label; "
                    "parity would prove nothing. Train the network first"
                )


def compare(reference: Outputs, candidate: Outputs, kind: Kind, precision: Precision) -> list[Measured]:
    """The figures of `kind` for every output of a file against the trained model's, on the same faces.

    A float32 file is judged by its worst case alone, so only metrics with a float32 limit are taken of it.
    """
    return [
        Measured(
            precision, name, metric.name, metric.unit, metric.measure(values, candidate[name]), limit, metric.at_least
        )
        for name, values in reference.items()
        for metric in METRICS[kind]
        for limit in (metric.float32 if precision == "float32" else metric.int8,)
        if precision == "int8" or limit is not None
    ]


def compare_batches(single: Outputs, batched: Outputs, kind: Kind, precision: Precision) -> list[Measured]:
    """One face at a time against the same faces in one batch, through the same file: float tolerance for both files."""
    first = METRICS[kind][0]
    return [
        Measured(
            precision,
            name,
            f"{first.name}, batch 1 to {len(values)}",
            first.unit,
            first.measure(values, batched[name]),
            first.float32,
            False,
        )
        for name, values in single.items()
    ]


def table(measured: Sequence[Measured]) -> str:
    """The figures as lines of text: file, output, figure, value, limit, verdict."""
    rows = [("file", "output", "figure", "value", "limit", "")]
    for item in measured:
        limit = "-" if item.limit is None else f"{'>=' if item.at_least else '<='} {item.limit:g}"
        verdict = "reported" if item.limit is None else "ok" if item.passed else "FAILED"
        rows.append((item.precision, item.output, item.metric, f"{item.value:.3g} {item.unit}", limit, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
