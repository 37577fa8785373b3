"""What is measured, and how sure we are: every figure comes with a bootstrap interval.

The bootstrap resamples groups (a photo, a person) where they are known, because faces of one group are not independent.
Each metric is a function of a weight for each face, so one resampling scheme serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from facexp.geometry import KEYPOINTS, interocular
from facexp_train.calibration import BINS, bin_of

Floats = NDArray[np.float64]
Metric = Callable[[Floats], Floats]
"""(B, N) weights of N faces -> (B,) values."""
RESAMPLES = 1000
SHARES = "%"
"""The unit of figures that are shares; those in pixels have theirs."""
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

    def scaled(self) -> tuple[float, float, float]:
        """Value, low and high in the metric's unit."""
        factor = 100 if unit(self.metric) == SHARES else 1
        return factor * self.value, factor * self.low, factor * self.high

    def said(self) -> str:
        """The value with its interval, in the metric's unit, as text: shares with one digit behind the point."""
        digits = 1 if unit(self.metric) == SHARES else 2
        value, low, high = (f"{each:.{digits}f}" for each in self.scaled())
        return f"{value} [{low}, {high}]"


def unit(metric: str) -> str:
    """The unit that a metric is shown in."""
    return {"rmse_px": "px", "mse_px": "px\u00b2"}.get(metric.rpartition("/")[2], SHARES)


def resample_weights(groups: Sequence[Any] | NDArray[Any], seed: int = 0) -> Floats:
    """(RESAMPLES, N) how often each face is drawn when whole groups are drawn with replacement."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    count = int(index.max()) + 1
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return draws[:, index].astype(np.float64)


def figure(split: str, metric: str, value: Metric, weights: Floats) -> Figure:
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


def ratio(numerator: Floats, denominator: Floats) -> Metric:
    """Weighted sum over weighted sum, the form of every mean and share."""
    return lambda weights: _divide(weights @ numerator, weights @ denominator)


def rmse(pixels: Floats) -> Metric:
    """Root mean square error of (N, 15) distances in pixels, NaN where a point is not labelled.

    Over coordinates, as Kaggle scores it: a point's squared distance holds two of them.
    """
    known = np.isfinite(pixels)
    squared = ratio((np.where(known, pixels, 0) ** 2).sum(axis=1) / 2, known.sum(axis=1).astype(np.float64))
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
    """(N, 15, 2) predicted and true points in crop pixels (truth NaN where missing) -> their errors.

    A face whose two eyes are labelled at one place has no unit, and so no error.
    """
    pixels = np.linalg.norm(prediction.astype(np.float64) - truth, axis=2)
    unit = interocular(truth)
    relative = pixels / np.where(unit > 0, unit, np.nan)[:, None]
    known = np.isfinite(relative)
    face = np.where(known, relative, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return KeypointErrors(pixels, relative, np.where(known.any(axis=1), face, np.nan))


def keypoint_metrics(errors: KeypointErrors) -> dict[str, Metric]:
    """What is measured of faces that are all rated, by its name, each as a function of the faces' weights.

    ced_auc_10 is the area under the curve of the share of faces over the error that they stay below, up to `FAILURE`,
    as a share of the whole: the mean of max(0, 1 - error / FAILURE).
    """
    pixels, relative, face = errors.pixels, errors.relative, errors.face
    known, ones = np.isfinite(pixels), np.ones(len(face))
    metrics: dict[str, Metric] = {
        "rmse_px": rmse(pixels),
        "mse_px": lambda weights: rmse(pixels)(weights) ** 2,
        "error_interocular": ratio(face, ones),
        "faces_above_10": ratio((face > FAILURE).astype(np.float64), ones),
        "ced_auc_10": ratio(np.maximum(0, 1 - face / FAILURE), ones),
    }
    count = known.sum(axis=1).astype(np.float64)
    for percent in (5, 10):
        within = (np.where(known, relative, np.inf) <= percent / 100).sum(axis=1).astype(np.float64)
        metrics[f"points_within_{percent}"] = ratio(within, count)
    for index, name in enumerate(KEYPOINTS):
        has = known[:, index]
        if has.any():
            value = ratio(np.where(has, relative[:, index], 0), has.astype(np.float64))
            metrics[f"error_interocular/{name}"] = value
    return metrics


def keypoint_figures(errors: KeypointErrors, groups: NDArray[Any], split: str) -> list[Figure]:
    """`keypoint_metrics` of the rated faces, and the median face's error."""
    rated = np.isfinite(errors.face)
    if not rated.any():
        return []
    errors, weights = errors.chosen(rated), resample_weights(groups[rated])
    figures = [figure(split, name, value, weights) for name, value in keypoint_metrics(errors).items()]
    median = Figure(split, "error_interocular_median", *_median(errors.face, weights), len(errors.face))
    return [*figures, median]


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


def emotion_scores(
    logits: NDArray[np.float32], truth: NDArray[np.int64], groups: NDArray[np.str_], split: str
) -> list[Figure]:
    """Accuracy, macro-F1 and calibration error over all classes.

    `logits` is (N, C); `truth` (N,) holds codes 0..C-1, and -1 for a face that is not rated; `groups` (N,) names the
    faces that belong together. A class that is not in the truth has no F1 and stays out of the mean. The calibration
    error is the mean distance between the probability of a face's first label and how often such labels are right, over
    `calibration.BINS` bins (Guo et al., ICML 2017).
    """
    rated = truth >= 0
    return _figures(_scores(logits[rated], truth[rated]), groups[rated], split)


def emotion_metrics(logits: NDArray[np.float32], truth: NDArray[np.int64], labels: Sequence[str]) -> dict[str, Metric]:
    """What is measured of faces that are all rated, by its name, each as a function of the faces' weights.

    `emotion_scores`; the means of precision and recall over the classes of the truth, each class alike (macro) or by
    its faces (weighted; recall's is the accuracy); and per class of the truth recall, precision (unless it was never
    predicted), F1 and the area under its ROC curve, one against the rest.
    """
    predicted, chances = logits.argmax(axis=1), softmax(logits.astype(float), axis=1)
    confusions = Confusions(truth, predicted, len(labels))
    present = [index for index in range(len(labels)) if (truth == index).any()]
    # a class that all faces are of has no rest to be told from
    areas = {index: roc_area(chances[:, index], truth == index) for index in present if len(present) > 1}
    metrics = _scores(logits, truth) | {
        "macro_precision": confusions.macro_precision,
        "macro_recall": confusions.macro_recall,
        "weighted_precision": confusions.weighted_precision,
        "weighted_f1": confusions.weighted_f1,
    }
    if areas:
        metrics["macro_auc"] = lambda weights: np.mean([area(weights) for area in areas.values()], axis=0)
    for index in present:
        of_class = {"recall": confusions.recall, "precision": confusions.precision, "f1": confusions.f1}
        if not (predicted == index).any():
            del of_class["precision"]
        for name, metric in of_class.items():
            metrics[f"{name}/{labels[index]}"] = partial(_of_class, metric, index)
        if areas:
            metrics[f"auc/{labels[index]}"] = areas[index]
    return metrics


def emotion_figures(
    logits: NDArray[np.float32],
    truth: NDArray[np.int64],
    groups: NDArray[np.str_],
    labels: Sequence[str],
    split: str,
) -> tuple[list[Figure], NDArray[np.int64]]:
    """`emotion_metrics` of the rated faces as figures, and the confusion matrix, whose rows are true."""
    rated = truth >= 0
    values, true = logits[rated], truth[rated]
    confusions = Confusions(true, values.argmax(axis=1), len(labels))
    table = confusions.tables(np.ones((1, len(true))))[0].astype(np.int64)
    return _figures(emotion_metrics(values, true, labels), groups[rated], split), table


def _scores(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, Metric]:
    predicted = logits.argmax(axis=1)
    confusions = Confusions(truth, predicted, logits.shape[1])
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    gaps = ((truth == predicted) - confidence)[:, None] * np.eye(BINS)[bin_of(confidence)]
    return {
        "accuracy": confusions.accuracy,
        "macro_f1": confusions.macro_f1,
        "calibration_error": lambda weights: np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1),
    }


def _figures(metrics: Mapping[str, Metric], groups: NDArray[np.str_], split: str) -> list[Figure]:
    weights = resample_weights(groups)
    figures = [figure(split, name, value, weights) for name, value in metrics.items()]
    return [_reaching(each) if each.metric == "calibration_error" else each for each in figures]


def roc_area(score: Floats, positive: NDArray[np.bool_]) -> Metric:
    """The area under the ROC curve of (N,) scores: how often a positive face scores higher than a negative one.

    Ties count half, as in scikit-learn's `roc_auc_score`; NaN where the weighted faces are all of one kind.
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    mask = positive[order]

    def area(weights: Floats) -> Floats:
        drawn = weights[:, order]
        hits = np.add.reduceat(drawn * mask, starts, axis=1)
        others = np.add.reduceat(drawn * ~mask, starts, axis=1)
        below = np.cumsum(others, axis=1) - others / 2
        return _divide((hits * below).sum(axis=1), hits.sum(axis=1) * others.sum(axis=1))

    return area


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

    def macro_recall(self, weights: Floats) -> Floats:
        """(B,) mean of recall over the classes of the truth."""
        return np.asarray(np.nanmean(self.recall(weights), axis=1))

    def macro_precision(self, weights: Floats) -> Floats:
        """(B,) mean of precision over the classes of the truth; 0 for one that was never predicted."""
        return np.asarray(np.nanmean(self._precision_of_truth(weights), axis=1))

    def weighted_precision(self, weights: Floats) -> Floats:
        """(B,) mean of precision over the classes of the truth by their faces; 0 for one that was never predicted."""
        return self._by_faces(self._precision_of_truth(weights), weights)

    def weighted_f1(self, weights: Floats) -> Floats:
        """(B,) mean of F1 over the classes of the truth by their faces."""
        return self._by_faces(self.f1(weights), weights)

    def _precision_of_truth(self, weights: Floats) -> Floats:
        return np.where(self.tables(weights).sum(axis=2) > 0, np.nan_to_num(self.precision(weights)), np.nan)

    def _by_faces(self, values: Floats, weights: Floats) -> Floats:
        faces = self.tables(weights).sum(axis=2)
        return _divide(np.where(faces > 0, values * faces, 0).sum(axis=1), faces.sum(axis=1))


def _of_class(metric: Metric, index: int, weights: Floats) -> Floats:
    return metric(weights)[:, index]


def _divide(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
