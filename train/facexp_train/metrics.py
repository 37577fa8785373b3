"""What is measured, and how sure we are: every figure comes with a bootstrap interval.

The bootstrap resamples groups (a photo, a person) where they are known, because faces of one group are not independent.
Each metric is a function of a weight for each face, so one resampling scheme serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from facexp.geometry import KEYPOINTS, interocular
from facexp_train.calibration import BINS, bin_of

Floats = NDArray[np.float64]
RESAMPLES = 1000
FAILURE = 0.10
"""A face whose error over the inter-ocular distance is larger counts as a failure."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with its 95% bootstrap interval."""

    split: str
    metric: str
    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """As it stands in evaluation.json and in a manifest."""
        return asdict(self)


def resample_weights(groups: Sequence[Any] | NDArray[Any], seed: int = 0) -> Floats:
    """(RESAMPLES, N) how often each face is drawn when whole groups are drawn with replacement."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    count = int(index.max()) + 1
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return draws[:, index].astype(np.float64)


def figure(split: str, metric: str, value: Callable[[Floats], Floats], weights: Floats) -> Figure:
    """`value` takes (B, N) weights and gives (B,) values; the figure itself is its value at weight one each."""
    n = weights.shape[1]
    samples = value(weights)
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return Figure(split, metric, float(value(np.ones((1, n)))[0]), float(low), float(high), n)


def _reaching(figure: Figure) -> Figure:
    """The figure with an interval that reaches down to its value.

    A mean of distances grows by whatever noise is added, and resampling adds some: its interval lies high.
    """
    return replace(figure, low=min(figure.low, figure.value))


def ratio(numerator: Floats, denominator: Floats) -> Callable[[Floats], Floats]:
    """Weighted sum over weighted sum, the form of every mean and share."""
    return lambda weights: _divide(weights @ numerator, weights @ denominator)


def rmse(pixels: Floats) -> Callable[[Floats], Floats]:
    """Root mean square error of (N, 15) distances in pixels, NaN where a point is not labelled.

    Over coordinates, as Kaggle scores it: a point's squared distance holds two of them.
    """
    known = np.isfinite(pixels)
    squared = ratio(np.where(known, pixels, 0).__pow__(2).sum(axis=1) / 2, known.sum(axis=1).astype(np.float64))
    return lambda weights: np.sqrt(squared(weights))


@dataclass(frozen=True, slots=True)
class KeypointErrors:
    """Distances of predicted from true points; NaN where a point is not labelled.

    pixels: float64 (N, 15) in crop pixels. relative: float64 (N, 15) over the true inter-ocular distance
    (between the eye centres). face: float64 (N,) the mean of `relative` over a face's labelled points.
    """

    pixels: Floats
    relative: Floats
    face: Floats

    def chosen(self, rows: NDArray[np.bool_]) -> KeypointErrors:
        """Those of some faces."""
        return KeypointErrors(self.pixels[rows], self.relative[rows], self.face[rows])


def keypoint_errors(prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> KeypointErrors:
    """(N, 15, 2) predicted and true points in crop pixels (truth NaN where missing) -> their errors."""
    pixels = np.linalg.norm(prediction.astype(np.float64) - truth, axis=2)
    relative = pixels / interocular(truth)[:, None]
    known = np.isfinite(relative)
    face = np.where(known, relative, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return KeypointErrors(pixels, relative, np.where(known.any(axis=1), face, np.nan))


def keypoint_figures(errors: KeypointErrors, groups: NDArray[Any], split: str) -> list[Figure]:
    """RMSE in pixels, error over inter-ocular distance, shares within bounds, and each point's error."""
    rated = np.isfinite(errors.face)
    if not rated.any():
        return []
    pixels, relative, face = errors.pixels[rated], errors.relative[rated], errors.face[rated]
    weights = resample_weights(groups[rated])
    known = np.isfinite(pixels)
    ones = np.ones(len(face))
    figures = [
        figure(split, "rmse_px", rmse(pixels), weights),
        figure(split, "error_interocular", ratio(face, ones), weights),
        Figure(split, "error_interocular_median", *_median(face, weights), len(face)),
        figure(split, "faces_above_10", ratio((face > FAILURE).astype(np.float64), ones), weights),
    ]
    count = known.sum(axis=1).astype(np.float64)
    for percent in (5, 10):
        within = (np.where(known, relative, np.inf) <= percent / 100).sum(axis=1).astype(np.float64)
        figures.append(figure(split, f"points_within_{percent}", ratio(within, count), weights))
    for index, name in enumerate(KEYPOINTS):
        has = known[:, index]
        if has.any():
            value = ratio(np.where(has, relative[:, index], 0), has.astype(np.float64))
            figures.append(figure(split, f"error_interocular/{name}", value, weights))
    return figures


def detected_figures(
    errors: KeypointErrors, missed: NDArray[np.bool_], groups: NDArray[Any], split: str
) -> list[Figure]:
    """Share of the faces that fail, share that was not found, and the error of those that were found."""
    rated = missed | np.isfinite(errors.face)
    if not rated.any():
        return []
    ones, failed = np.ones(int(rated.sum())), missed | (errors.face > FAILURE)
    weights = resample_weights(groups[rated])
    figures = [
        figure(split, "detected_failures", ratio(failed[rated].astype(np.float64), ones), weights),
        figure(split, "detected_missed", ratio(missed[rated].astype(np.float64), ones), weights),
    ]
    found = rated & ~missed
    if found.any():
        face, weights = errors.face[found], resample_weights(groups[found])
        figures += [
            figure(split, "detected_error_interocular", ratio(face, np.ones(len(face))), weights),
            Figure(split, "detected_error_interocular_median", *_median(face, weights), len(face)),
        ]
    return figures


def _median(face: Floats, weights: Floats) -> tuple[float, float, float]:
    order = np.argsort(face)
    total = np.cumsum(weights[:, order], axis=1)
    middle = (total >= total[:, -1:] / 2).argmax(axis=1)
    low, high = np.percentile(face[order][middle], [2.5, 97.5])
    return float(np.median(face)), float(low), float(high)


def emotion_scores(logits: NDArray[np.float32], truth: NDArray[np.int64], split: str) -> list[Figure]:
    """Accuracy, macro-F1 and calibration error over all classes.

    `logits` is (N, C); `truth` (N,) holds codes 0..C-1, and -1 for a face that is not rated. A class that is not in the
    truth has no F1 and stays out of the mean. The calibration error is the mean distance between the probability of a
    face's first label and how often such labels are right, over `calibration.BINS` bins (Guo et al., ICML 2017).
    """
    rated = truth >= 0
    true, predicted = truth[rated], logits[rated].argmax(axis=1)
    confusions = Confusions(true, predicted, logits.shape[1])
    weights = resample_weights(np.arange(len(true)))
    confidence = softmax(logits[rated].astype(np.float64), axis=1).max(axis=1)
    gaps = ((true == predicted) - confidence)[:, None] * np.eye(BINS)[bin_of(confidence)]
    return [
        figure(split, "accuracy", confusions.accuracy, weights),
        figure(split, "macro_f1", confusions.macro_f1, weights),
        _reaching(figure(split, "calibration_error", lambda w: np.abs(w @ gaps).sum(axis=1) / w.sum(axis=1), weights)),
    ]


def emotion_figures(
    logits: NDArray[np.float32], truth: NDArray[np.int64], labels: Sequence[str], split: str
) -> tuple[list[Figure], NDArray[np.int64]]:
    """`emotion_scores`, and per class recall, precision and F1, with the confusion matrix, whose rows are true."""
    rated = truth >= 0
    true = truth[rated]
    confusions = Confusions(true, logits[rated].argmax(axis=1), len(labels))
    weights = resample_weights(np.arange(len(true)))
    figures = emotion_scores(logits, truth, split)
    metrics = {"recall": confusions.recall, "precision": confusions.precision, "f1": confusions.f1}
    for index, label in enumerate(labels):
        if (true == index).any():
            for name, metric in metrics.items():
                value = partial(_of_class, metric, index)
                figures.append(figure(split, f"{name}/{label}", value, weights))
    table = confusions.tables(np.ones((1, len(true))))[0].astype(np.int64)
    return figures, table


class Confusions:
    """Confusion matrices of N faces under any weights, and what follows from them.

    Every method takes (B, N) weights of the faces and gives an array whose first dimension is B.
    """

    def __init__(self, true: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> None:
        """True and predicted codes (N,), 0 to classes - 1."""
        self._classes = classes
        self._pair = np.eye(classes * classes)[true * classes + predicted]

    def tables(self, weights: Floats) -> Floats:
        """(B, C, C) weighted counts: true rows, predicted columns."""
        return np.asarray(weights @ self._pair).reshape(-1, self._classes, self._classes)

    def accuracy(self, weights: Floats) -> Floats:
        """(B,) share of the faces that are right."""
        tables = self.tables(weights)
        return _divide(np.einsum("bii->b", tables), tables.sum(axis=(1, 2)))

    def recall(self, weights: Floats) -> Floats:
        """(B, C), NaN for a class that is not in the truth."""
        tables = self.tables(weights)
        return _divide(np.einsum("bii->bi", tables), tables.sum(axis=2))

    def precision(self, weights: Floats) -> Floats:
        """(B, C), NaN for a class that was never predicted."""
        tables = self.tables(weights)
        return _divide(np.einsum("bii->bi", tables), tables.sum(axis=1))

    def f1(self, weights: Floats) -> Floats:
        """(B, C), NaN for a class that is not in the truth."""
        tables = self.tables(weights)
        both = tables.sum(axis=1) + tables.sum(axis=2)
        return np.where(tables.sum(axis=2) > 0, _divide(2 * np.einsum("bii->bi", tables), both), np.nan)

    def macro_f1(self, weights: Floats) -> Floats:
        """(B,) mean of F1 over the classes of the truth."""
        return np.asarray(np.nanmean(self.f1(weights), axis=1))


def _of_class(metric: Callable[[Floats], Floats], index: int, weights: Floats) -> Floats:
    return metric(weights)[:, index]


def _divide(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
