"""Step 3 of the proof: how much worse a file is at its task than the most exact file, on held-out faces.

The bootstrap is paired: both files are evaluated on the same resampled faces, and the interval is that of the
difference. The pessimistic end of the interval must be within the margin, not the point estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from facexp.geometry import KEYPOINTS
from facexp.proof.verdict import Check, with_verdict
from facexp_export.recipe import Margins
from facexp_export.tasks import Outputs
from facexp_train.evaluation.metrics import (
    Confusions,
    Figure,
    Floats,
    figure,
    keypoint_errors,
    ratio,
    resample_weights,
    rmse,
)

Value = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Held-out faces of one task with their true labels or points."""

    crops: NDArray[np.uint8]
    """uint8 (N, S, S, 1)."""
    truth: Mapping[str, NDArray[Any]]
    """By output: int64 (N,) class indices, -1 for a face without a label, or float32 (N, 15, 2), NaN if unlabelled."""
    group: NDArray[Any]
    """(N,) the photo or person; the bootstrap draws faces of one group together."""
    labels: tuple[str, ...]


def check_finite(task: str, key: str, answers: Outputs) -> Iterator[Check]:
    """Yield whether every answer is a finite number: a point that is not would count as unlabelled in the figures."""
    for name, values in answers.items():
        faces = int((~np.isfinite(values.reshape(len(values), -1)).all(axis=1)).sum())
        note = f"they are not for {faces:,} of {len(values):,} faces; export another precision" if faces else ""
        yield Check("answers are finite numbers", task, key, name, passed=not faces, note=note)


def base_figures(task: str, key: str, faces: Labelled, base: Outputs) -> Iterator[Check]:
    """Yield the scores of the base file, with which the others are compared, and whether its labels fit the data.

    The scores have no limit: step 2 compares the base file with the trained model.
    """
    for name, truth in faces.truth.items():
        rows, weights = _rated(truth, faces.group)
        about = Check("", task, key, name)
        if truth.ndim == 1:
            table = _confusions(base[name][rows], truth[rows], faces.labels)
            yield _reported(about, "accuracy", "%", _percent(table.accuracy), weights)
            yield _reported(about, "macro-F1", "%", _percent(table.macro_f1), weights)
            yield _label_order(about, table, faces.labels)
        else:
            yield _reported(about, "RMSE", "px", rmse(keypoint_errors(base[name][rows], truth[rows]).pixels), weights)


def _label_order(about: Check, confusions: Confusions, labels: tuple[str, ...]) -> Check:
    """Check that no labels are exchanged: step 2 compares numbers, whatever the manifest calls them.

    They are if the label that most faces of a class get leads in a circle, from class to class. A weak network, which
    gives one label to the faces of several classes, leads to that label instead.
    """
    (table,) = confusions.tables(np.ones((1, confusions.faces)))
    own, most, called = np.diagonal(table), table.max(axis=1), table.argmax(axis=1)
    # by three standard deviations, so that the few faces of a rare class do not decide
    clear = most - own > 3 * np.sqrt(most + own)

    def in_circle(start: int) -> bool:
        code = start
        for _ in labels:
            if not clear[code]:
                return False
            code = int(called[code])
            if code == start:
                return True
        return False

    wrong = [f"{labels[code]} are called {labels[called[code]]}" for code in range(len(labels)) if in_circle(code)]
    note = f"most faces of {', of '.join(wrong)}; train again, or give the data that the network was trained on"
    return replace(about, file="", what="labels are those of the data", passed=not wrong, note=note if wrong else "")


def compare(task: str, key: str, faces: Labelled, base: Outputs, answers: Outputs, margins: Margins) -> Iterator[Check]:
    """Yield what the file `key` loses against the base: the loss, which has a margin, and figures that explain it."""
    for name, truth in faces.truth.items():
        rows, weights = _rated(truth, faces.group)
        about = Check("", task, key, name)
        if truth.ndim == 1:
            yield from _emotion(
                about, base[name][rows], answers[name][rows], truth[rows], faces.labels, weights, margins
            )
        else:
            yield from _points(about, base[name], answers[name], truth, rows, weights, margins)


def _emotion(
    about: Check,
    base: NDArray[np.float32],
    answers: NDArray[np.float32],
    truth: NDArray[Any],
    labels: tuple[str, ...],
    weights: Floats,
    margins: Margins,
) -> Iterator[Check]:
    ours, theirs = _confusions(answers, truth, labels), _confusions(base, truth, labels)
    loss = _reported(about, "accuracy lost", "points", _percent(_loss(theirs.accuracy, ours.accuracy)), weights)
    yield with_verdict(replace(loss, limit=margins.accuracy_points))
    # no limit: the rarest class has a few dozen faces, and one of them can change macro-F1 by more than the margin
    yield _reported(about, "macro-F1 lost", "points", _percent(_loss(theirs.macro_f1, ours.macro_f1)), weights)
    once = np.ones((1, len(truth)))
    recalls, before = ours.recall(once)[0], theirs.recall(once)[0]
    worst = int(np.nanargmin(recalls))
    yield replace(
        about,
        what=f"recall of the worst class, {labels[worst]}",
        value=100 * float(recalls[worst]),
        unit="%",
        note=f"{100 * before[worst]:.1f}% before",
    )
    agree = (answers.argmax(axis=1) == base.argmax(axis=1)).astype(np.float64)
    yield _reported(about, "same answer as before", "%", _percent(ratio(agree, np.ones(len(agree)))), weights)
    yield _reported(
        about, "KL divergence from before", "nat", ratio(_divergence(base, answers), np.ones(len(agree))), weights
    )


def _points(
    about: Check,
    base: NDArray[np.float32],
    answers: NDArray[np.float32],
    truth: NDArray[Any],
    rows: NDArray[np.bool_],
    weights: Floats,
    margins: Margins,
) -> Iterator[Check]:
    ours, theirs = (rmse(keypoint_errors(points[rows], truth[rows]).pixels) for points in (answers, base))
    # ours minus theirs, because RMSE is an error: a loss is an increase, not a decrease as for accuracy
    yield with_verdict(
        replace(_reported(about, "RMSE added", "px", _loss(ours, theirs), weights), limit=margins.rmse_px)
    )
    yield _reported(about, "RMSE", "px", ours, weights)
    moved = np.linalg.norm(answers.astype(np.float64) - base, axis=2)
    for name, value in zip(KEYPOINTS, np.percentile(moved, 95, axis=0), strict=True):
        yield replace(about, what=f"95th percentile of displacement, {name}", value=float(value), unit="px")


def _rated(truth: NDArray[Any], group: NDArray[Any]) -> tuple[NDArray[np.bool_], Floats]:
    rows = truth >= 0 if truth.ndim == 1 else np.isfinite(truth).all(axis=2).any(axis=1)
    return rows, resample_weights(group[rows])


def _reported(about: Check, what: str, unit: str, value: Value, weights: Floats) -> Check:
    found: Figure = figure("", what, value, weights)
    return replace(about, what=what, value=found.value, low=found.low, high=found.high, unit=unit)


def _loss(before: Value, after: Value) -> Value:
    return lambda weights: before(weights) - after(weights)


def _percent(value: Value) -> Value:
    return lambda weights: 100 * value(weights)


def _confusions(logits: NDArray[np.float32], truth: NDArray[Any], labels: tuple[str, ...]) -> Confusions:
    return Confusions(truth.astype(np.int64), logits.argmax(axis=1), len(labels))


def _divergence(base: NDArray[np.float32], answers: NDArray[np.float32]) -> Floats:
    """Return KL(base || answers) between each face's softmax distributions, in nats."""
    p, q = (log_softmax(logits.astype(np.float64), axis=1) for logits in (base, answers))
    return np.asarray((np.exp(p) * (p - q)).sum(axis=1))
