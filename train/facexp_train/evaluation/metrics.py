"""Metrics of keypoints and emotions, each with a 95% bootstrap interval.

The bootstrap resamples groups (a photo, a person) where they are known, because faces of one group are not independent.
Each metric is a function of one weight per face, so that the same resampling scheme works for all of them.
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
from facexp_train.evaluation.calibration import BINS, bin_of

Floats = NDArray[np.float64]
Metric = Callable[[Floats], Floats]
"""A function from (B, N) weights of N faces to (B,) values."""
RESAMPLES = 1000
SHARES = "%"
"""The unit of figures that are shares; figures in pixels have units of their own (see `unit`)."""
FAILURE = 0.10
"""The error over the inter-ocular distance above which a face counts as a failure."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with its 95% bootstrap interval, `low` to `high`, over `n` faces."""

    split: str
    metric: str
    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """The figure as a JSON object, as in evaluation.json and in a manifest."""
        return asdict(self)

    def scaled(self) -> tuple[float, float, float]:
        """Value, low and high in the metric's unit."""
        factor = 100 if unit(self.metric) == SHARES else 1
        return factor * self.value, factor * self.low, factor * self.high

    def text(self) -> str:
        """The value and its interval as text, in the metric's unit: one decimal for shares, two for pixels."""
        digits = 1 if unit(self.metric) == SHARES else 2
        value, low, high = (f"{each:.{digits}f}" for each in self.scaled())
        return f"{value} [{low}, {high}]"


def unit(metric: str) -> str:
    """The unit in which a metric is shown."""
    return {"rmse_px": "px", "mse_px": "px\u00b2"}.get(metric.rpartition("/")[2], SHARES)


def resample_weights(groups: Sequence[Any] | NDArray[Any]) -> Floats:
    """(RESAMPLES, N) float64: how often each of N faces is drawn when whole groups are drawn with replacement."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    count = int(index.max()) + 1
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return draws[:, index].astype(np.float64)


def figure(split: str, metric: str, value: Metric, weights: Floats) -> Figure:
    """The figure of a metric: `value` at a weight of one for each face, with an interval over the rows of `weights`."""
    n = weights.shape[1]
    samples = value(weights)
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return Figure(split, metric, float(value(np.ones((1, n)))[0]), float(low), float(high), n)


def model_figure(split: str, metric: str, value: Metric, weights: Floats) -> Figure:
    """The `figure` of one model; the interval of a calibration error is extended down to its value if that lies below.

    Noise always increases a mean of absolute differences, and resampling adds noise, so that its interval is too high.
    """
    found = figure(split, metric, value, weights)
    if metric.rpartition("/")[2] != "calibration_error":
        return found
    return replace(found, low=min(found.low, found.value))


def ratio(numerator: Floats, denominator: Floats) -> Metric:
    """The metric of a weighted sum of (N,) numerators over that of (N,) denominators, such as a mean or a share."""
    return lambda weights: _divide(weights @ numerator, weights @ denominator)


def mse(pixels: Floats) -> Metric:
    """Mean square error of (N, 15) distances in pixels, NaN where a point is not labelled.

    The mean is over coordinates, as in Kaggle's score: a point's squared distance is the sum of two squared errors.
    """
    known = np.isfinite(pixels)
    return ratio((np.where(known, pixels, 0) ** 2).sum(axis=1) / 2, known.sum(axis=1).astype(np.float64))


def rmse(pixels: Floats) -> Metric:
    """Root of the `mse`."""
    squared = mse(pixels)
    return lambda weights: np.sqrt(squared(weights))


@dataclass(frozen=True, slots=True)
class KeypointErrors:
    """Distances between predicted and true points; NaN where a point is not labelled.

    pixels: float64 (N, 15) in crop pixels. relative: float64 (N, 15) over the true inter-ocular distance
    (between the eye centres). face: float64 (N,) the mean of `relative` over a face's labelled points.
    """

    pixels: Floats
    relative: Floats
    face: Floats

    def chosen(self, rows: NDArray[np.bool_]) -> KeypointErrors:
        """The errors of the faces that the mask (N,) selects."""
        return KeypointErrors(self.pixels[rows], self.relative[rows], self.face[rows])


def keypoint_errors(prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> KeypointErrors:
    """The errors of (N, 15, 2) predicted points, given the true ones; both in crop pixels, truth NaN where missing.

    A face with both eyes labelled at the same position has no inter-ocular distance, and so no relative error (NaN).
    """
    pixels = np.linalg.norm(prediction.astype(np.float64) - truth, axis=2)
    unit = interocular(truth)
    relative = pixels / np.where(unit > 0, unit, np.nan)[:, None]
    known = np.isfinite(relative)
    face = np.where(known, relative, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return KeypointErrors(pixels, relative, np.where(known.any(axis=1), face, np.nan))


def keypoint_metrics(errors: KeypointErrors) -> dict[str, Metric]:
    """The keypoint metrics by name, each a function of the faces' weights; every face must have an error.

    ced_auc_10 is the area under the cumulative error distribution (share of faces with at most an error) up to
    `FAILURE`, as a share of the largest possible area: the mean of max(0, 1 - error / FAILURE).
    """
    pixels, relative, face = errors.pixels, errors.relative, errors.face
    known, ones = np.isfinite(pixels), np.ones(len(face))
    metrics: dict[str, Metric] = {
        "rmse_px": rmse(pixels),
        "mse_px": mse(pixels),
        "error_interocular": ratio(face, ones),
        "faces_above_10": ratio((face > FAILURE).astype(np.float64), ones),
        "ced_auc_10": ratio(np.maximum(0, 1 - face / FAILURE), ones),
    }
    count = known.sum(axis=1).astype(np.float64)
    for percent in (5, 10):
        within = (np.where(known, relative, np.inf) <= percent / 100).sum(axis=1).astype(np.float64)
        metrics[f"points_within_{percent}"] = ratio(within, count)
    for index, name in enumerate(KEYPOINTS):
        labelled = known[:, index]
        if labelled.any():
            value = ratio(np.where(labelled, relative[:, index], 0), labelled.astype(np.float64))
            metrics[f"error_interocular/{name}"] = value
    return metrics


def keypoint_figures(errors: KeypointErrors, groups: NDArray[Any], split: str) -> list[Figure]:
    """`keypoint_metrics` of the faces that have an error, and the median error of a face; empty without such faces."""
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
    """Figures of faces that a detector had to find first.

    These are the share of faces that fail (not found, or an error above `FAILURE`), the share that was not found, and
    mean and median error of the faces that were found. `missed` is (N,), True where a face was not found.
    """
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

    `logits` is (N, C). `truth` (N,) holds codes 0..C-1, and -1 for a face that is not rated. `groups` (N,) names the
    groups that are resampled together. A class that is not in the truth has no F1 score and is left out of the mean.
    The expected calibration error is the mean difference between the probability of the predicted label and the share
    of such labels that are correct, over `calibration.BINS` bins (Guo et al., ICML 2017).
    """
    rated = truth >= 0
    return _figures(_scores(logits[rated], truth[rated]), groups[rated], split)


def emotion_metrics(logits: NDArray[np.float32], truth: NDArray[np.int64], labels: Sequence[str]) -> dict[str, Metric]:
    """The emotion metrics by name, each a function of the faces' weights; every face must be rated.

    These are the metrics of `emotion_scores`; the means of precision, recall and F1 over the classes of the truth, with
    equal weights (macro) or weighted by the number of faces (the weighted recall is the accuracy, and has no entry of
    its own); the mean area under the ROC curves; and for each class of the truth recall, precision (unless it was never
    predicted), F1 and the area under its ROC curve, one against the rest.
    """
    predicted, probabilities = logits.argmax(axis=1), softmax(logits.astype(float), axis=1)
    confusions = Confusions(truth, predicted, len(labels))
    present = [index for index in range(len(labels)) if (truth == index).any()]
    # with a single class in the truth there are no negatives, and so no ROC curve
    areas = {index: roc_area(probabilities[:, index], truth == index) for index in present if len(present) > 1}
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
    """The figures of `emotion_metrics` over the rated faces, and the (C, C) confusion matrix with true rows."""
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
    return [model_figure(split, name, value, weights) for name, value in metrics.items()]


def roc_area(score: Floats, positive: NDArray[np.bool_]) -> Metric:
    """The metric of the area under the ROC curve of (N,) scores: how often a positive face outscores a negative one.

    Ties count half, as in scikit-learn's `roc_auc_score`; NaN if the weighted faces are all positive or all negative.
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
    """Confusion matrices of N faces under any weights, and the metrics that are computed from them.

    Every method takes (B, N) weights of the faces and returns an array with B as its first dimension.
    """

    def __init__(self, true: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> None:
        """Take true and predicted codes (N,), from 0 to `classes` - 1."""
        self.faces = len(true)
        self._classes = classes
        self._pair = np.eye(classes * classes)[true * classes + predicted]

    def tables(self, weights: Floats) -> Floats:
        """(B, C, C) weighted counts: rows are true classes, columns predicted ones."""
        return np.asarray(weights @ self._pair).reshape(-1, self._classes, self._classes)

    def accuracy(self, weights: Floats) -> Floats:
        """(B,) share of the faces that are classified correctly."""
        tables = self.tables(weights)
        return _divide(np.einsum("bii->b", tables), tables.sum(axis=(1, 2)))

    def recall(self, weights: Floats) -> Floats:
        """(B, C) recall of each class, NaN for a class that is not in the truth."""
        tables = self.tables(weights)
        return _divide(np.einsum("bii->bi", tables), tables.sum(axis=2))

    def precision(self, weights: Floats) -> Floats:
        """(B, C) precision of each class, NaN for a class that was never predicted."""
        tables = self.tables(weights)
        return _divide(np.einsum("bii->bi", tables), tables.sum(axis=1))

    def f1(self, weights: Floats) -> Floats:
        """(B, C) F1 score of each class, NaN for a class that is not in the truth."""
        tables = self.tables(weights)
        both = tables.sum(axis=1) + tables.sum(axis=2)
        return np.where(tables.sum(axis=2) > 0, _divide(2 * np.einsum("bii->bi", tables), both), np.nan)

    def macro_f1(self, weights: Floats) -> Floats:
        """(B,) unweighted mean of F1 over the classes of the truth."""
        return np.asarray(np.nanmean(self.f1(weights), axis=1))

    def macro_recall(self, weights: Floats) -> Floats:
        """(B,) unweighted mean of recall over the classes of the truth."""
        return np.asarray(np.nanmean(self.recall(weights), axis=1))

    def macro_precision(self, weights: Floats) -> Floats:
        """(B,) unweighted mean of precision over the classes of the truth; 0 for a class that was never predicted."""
        return np.asarray(np.nanmean(self._precision_of_truth(weights), axis=1))

    def weighted_precision(self, weights: Floats) -> Floats:
        """(B,) mean of precision over the classes of the truth, weighted by their faces; 0 if never predicted."""
        return self._by_faces(self._precision_of_truth(weights), weights)

    def weighted_f1(self, weights: Floats) -> Floats:
        """(B,) mean of F1 over the classes of the truth, weighted by their faces."""
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
