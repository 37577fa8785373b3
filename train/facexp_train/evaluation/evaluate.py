"""Scores of a model on a split: figures with intervals, confusion matrices, and tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from facexp.geometry import KEYPOINTS, interocular
from facexp.labels import FIVE
from facexp_train.augmentation.framing import jittered_crops
from facexp_train.data.emotion_data import EmotionFaces, truths
from facexp_train.data.keypoint_data import KeypointFaces
from facexp_train.errors import DataError
from facexp_train.evaluation.calibration import Curve, curve
from facexp_train.evaluation.metrics import (
    Figure,
    KeypointErrors,
    Metric,
    detected_figures,
    emotion_figures,
    emotion_metrics,
    emotion_scores,
    keypoint_errors,
    keypoint_figures,
)
from facexp_train.evaluation.shifts import SHIFTS, shifted
from facexp_train.progress import progress_bar

Predict = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]
"""uint8 crops (N, S, S, 1) -> arrays by output name, independent of what runs the model."""

Faces = TypeVar("Faces", KeypointFaces, EmotionFaces, KeypointFaces | EmotionFaces)

Locate = Callable[[NDArray[np.uint8], tuple[float, float]], NDArray[np.float32] | None]
"""A gray uint8 image (H, W) and a point (x, y) inside a face -> that face's (15, 2) points, None if not found."""

Align = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""uint8 (N, S, S) faces -> uint8 (N, S, S), aligned as the runtime aligns them."""

ALIGNED = "aligned"
"""Suffix of the split's name in figures of such faces."""

AS_IT_IS, WITHOUT_TEMPERATURE = "as it is", "without its temperature"
"""The names of a model's calibration curves, in the legend too."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """A confusion matrix: int64 counts (C, C), true classes in rows, predicted classes in columns."""

    name: str
    labels: tuple[str, ...]
    table: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EmotionPredictions:
    """A model's logits for N faces, with the true classes of one labelling, over all or some classes.

    logits: float32 (N, C). truth: int64 (N,) codes of `labels`, -1 for a face that is not rated. groups: (N,) str,
    equal for faces that the bootstrap draws together.
    """

    name: str
    labels: tuple[str, ...]
    logits: NDArray[np.float32]
    truth: NDArray[np.int64]
    groups: NDArray[np.str_]

    def metrics(self) -> dict[str, Metric]:
        """Return the metrics over the rated faces, by name."""
        rated = self.truth >= 0
        return emotion_metrics(self.logits[rated], self.truth[rated], self.labels)


@dataclass(frozen=True, slots=True)
class KeypointPredictions:
    """A model's keypoints for N faces, with the true ones.

    images: uint8 (N, S, S). truth, predicted: float32 (N, 15, 2) in pixels of the images; NaN where a point is not
    labelled or a face was not found. names: (N,) str. groups: (N,) str, equal for faces that the bootstrap draws
    together.
    """

    images: NDArray[np.uint8]
    truth: NDArray[np.float32]
    predicted: NDArray[np.float32]
    names: NDArray[np.str_]
    groups: NDArray[np.str_]

    def errors(self) -> KeypointErrors:
        """Return the distances between predicted and true points."""
        return keypoint_errors(self.predicted, self.truth)

    def missed(self) -> NDArray[np.bool_]:
        """Return a mask (N,) of the faces that were not found."""
        return np.asarray(~np.isfinite(self.predicted).all(axis=(1, 2)))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured on one split. `worst` are the keypoint faces with the largest errors, as (name, error).

    `calibrations` holds the curves of each labelling by AS_IT_IS and, if the model has one, WITHOUT_TEMPERATURE.
    `emotions` and `keypoints` are the predictions themselves, `faces` the emotion faces that they are for.
    """

    split: str
    figures: tuple[Figure, ...]
    confusions: tuple[Confusion, ...] = ()
    calibrations: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    worst: tuple[tuple[str, float], ...] = ()
    emotions: tuple[EmotionPredictions, ...] = ()
    faces: EmotionFaces | None = None
    keypoints: KeypointPredictions | None = None

    def value(self, metric: str, split: str | None = None) -> float:
        """Return the value of a metric; KeyError if it was not measured."""
        return self.of(split or self.split)[metric].value

    def of(self, split: str) -> dict[str, Figure]:
        """Return the figures of a split, or of a part of one ("SPLIT/NAME"), by metric."""
        return {figure.metric: figure for figure in self.figures if figure.split == split}


def evaluate_keypoints(predict: Predict, faces: KeypointFaces, split: str) -> Evaluation:
    """Measure errors on the jittered crops of a split, over all faces and over each of `strata` (split "SPLIT/NAME").

    DataError if the split has no face that can be scored, or an answer is not a finite number.
    """
    part = part_of(faces, split)
    crops, points = jittered_crops(part)
    predicted = _answers(predict, crops)["keypoints"]
    predictions = KeypointPredictions(crops[..., 0], points, predicted, part.names, part.group)
    errors = predictions.errors()
    figures = _expect_some(keypoint_figures(errors, part.group, split), split)
    for name, rows in strata(part).items():
        figures += keypoint_figures(errors.chosen(rows), part.group[rows], f"{split}/{name}")
    return Evaluation(split, tuple(figures), worst=_worst(errors, part), keypoints=predictions)


def evaluate_detected(locate: Locate, faces: KeypointFaces, split: str, quiet: bool = False) -> Evaluation:
    """Measure errors including detection: of the points that `locate` finds on the canvases of one split.

    Metrics are named "detected_...": `detected_failures` is the share of faces with an error above 10% or not found,
    `detected_missed` the share of faces not found; errors are over the faces that were found. DataError if the split
    has no face that can be scored.
    """
    part = part_of(faces, split)
    found = np.full(part.points.shape, np.nan, np.float32)
    with progress_bar(len(part), f"locating {split}", "face", quiet=quiet) as bar:
        for row, image in enumerate(part.images):
            points = locate(image, (float(part.squares[row, 0]), float(part.squares[row, 1])))
            if points is not None:
                found[row] = points
            bar.update()
    predictions = KeypointPredictions(part.images, part.points, found, part.names, part.group)
    errors = predictions.errors()
    missed = predictions.missed()
    figures = _expect_some(detected_figures(errors, missed, part.group, split), split)
    for name, rows in strata(part).items():
        figures += detected_figures(errors.chosen(rows), missed[rows], part.group[rows], f"{split}/{name}")
    return Evaluation(split, tuple(figures), worst=_worst(errors, part), keypoints=predictions)


def _expect_some(figures: list[Figure], split: str) -> list[Figure]:
    if not figures:
        raise DataError(
            f"no face of split {split!r} has both eye centres labelled, at two places: errors are measured over "
            "the distance between the eyes"
        )
    return figures


def strata(faces: KeypointFaces) -> dict[str, NDArray[np.bool_]]:
    """Return masks (N,) of the faces by source, by pose and by size; only those that hold a face.

    Pose is the distance between the eyes over the distance from their midpoint to the mouth's, which decreases as a
    head turns: "profile" up to 0.6 (about 50 degrees), "turned" up to 0.8 (about 30 degrees), "frontal" above. Size is
    the side of the framing square in pixels of the original picture, before it was enlarged.
    """
    masks = {str(source): faces.source == source for source in np.unique(faces.source)}
    masks |= dict(
        zip(("profile", "turned", "frontal"), _between(_eye_to_mouth_ratio(faces.points), 0.6, 0.8), strict=True)
    )
    sides = faces.squares[:, 2] / faces.upscale
    masks |= dict(zip(("below 64 px", "64 to 128 px", "above 128 px"), _between(sides, 64, 128), strict=True))
    return {name: mask for name, mask in masks.items() if mask.any()}


def _eye_to_mouth_ratio(points: NDArray[np.float32]) -> NDArray[np.float64]:
    eyes = [KEYPOINTS.index(name) for name in ("left_eye_center", "right_eye_center")]
    mouth = [KEYPOINTS.index(name) for name in ("mouth_left_corner", "mouth_right_corner")]
    height = np.linalg.norm(points[:, eyes].mean(axis=1) - points[:, mouth].mean(axis=1), axis=1)
    return np.asarray(interocular(points) / np.maximum(height, 1e-6))


def _between(values: NDArray[np.float64], low: float, high: float) -> list[NDArray[np.bool_]]:
    # NaN is in none of the three
    return [values <= low, (values > low) & (values <= high), values > high]


def part_of(faces: Faces, split: str) -> Faces:
    """Return the faces of a split; DataError if it has none."""
    part = faces.part(split)
    if not len(part):
        raise DataError(f"the data has no faces in split {split!r}; it has {', '.join(np.unique(faces.split))}")
    return part


def _answers(predict: Predict, crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Return a model's answers to crops (N, S, S, 1); DataError unless all are finite numbers.

    A point that is not finite would count as unlabelled, so that a model that fails on hard faces would look better.
    """
    answers = predict(crops)
    for name, values in answers.items():
        if bad := int((~np.isfinite(values.reshape(len(values), -1)).all(axis=1)).sum()):
            raise DataError(f"the model's output {name} is not a finite number for {bad:,} of {len(values):,} faces")
    return answers


def _worst(errors: KeypointErrors, part: KeypointFaces) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-np.nan_to_num(errors.face, nan=-1.0))[:20]
    return tuple((str(part.names[i]), float(errors.face[i])) for i in order if np.isfinite(errors.face[i]))


def evaluate_emotion(
    predict: Predict,
    faces: EmotionFaces,
    split: str,
    temperatures: Mapping[str, float] | None = None,
    align: Align | None = None,
) -> Evaluation:
    """Score each head against its own labelling, over all classes and, if there are more, over the five.

    Metrics are named "fer2013/accuracy", "ferplus_five/macro_f1" and so on; the head "ferplus" is also scored against
    FER+'s clear majorities, as "ferplus_clear". With `align` all of these are scored on aligned faces too (split
    "SPLIT/aligned"); all classes are also scored under each of `shifts.SHIFTS` (split "SPLIT/NAME"). `temperatures` are
    those by which the model divides a head's logits, for the calibration curves without them. DataError if the split is
    empty, or an answer is not a finite number.
    """
    part = part_of(faces, split)
    truth_of = {head: (head, truth) for head, truth in truths(part).items()}
    if part.votes is not None:
        truth_of["ferplus_clear"] = "ferplus", part.clear_majority()
    # empty unless the classes are the five and others
    five = [part.classes.index(label) for label in FIVE if set(part.classes) > set(FIVE)]
    truth_five = np.full(len(part.classes) + 1, -1)
    truth_five[five] = np.arange(len(five))
    logits = _answers(predict, part.images[..., None])
    labellings = {
        name: (head, truth) for name, (head, truth) in truth_of.items() if head in logits and (truth >= 0).any()
    }

    def predictions_of(logits: Mapping[str, NDArray[np.float32]], name: str) -> Iterator[EmotionPredictions]:
        head, truth = labellings[name]
        for scored, labels, classes, true in (
            (name, part.classes, logits[head], truth),
            (f"{name}_five", FIVE, logits[head][:, five], truth_five[truth]),
        ):
            if (true >= 0).any():
                yield EmotionPredictions(scored, tuple(labels), classes, true, part.group)

    figures: list[Figure] = []
    confusions = []
    emotions = []
    calibrations: dict[str, dict[str, Curve]] = {}
    for name, (head, truth) in labellings.items():
        for each in predictions_of(logits, name):
            found, table = emotion_figures(each.logits, each.truth, part.group, each.labels, split)
            figures += _named(each.name, found)
            confusions.append(Confusion(each.name, each.labels, table))
            emotions.append(each)
        calibrations[name] = {AS_IT_IS: curve(logits[head], truth)}
        if temperatures is not None:
            calibrations[name][WITHOUT_TEMPERATURE] = curve(logits[head] * temperatures[head], truth)
    if align is not None:
        logits = _answers(predict, align(part.images)[..., None])
        for name in labellings:
            for each in predictions_of(logits, name):
                found = emotion_scores(each.logits, each.truth, part.group, f"{split}/{ALIGNED}")
                figures += _named(each.name, found)
    for shift in SHIFTS:
        logits = _answers(predict, shifted(part.images, shift)[..., None])
        for name, (head, truth) in labellings.items():
            figures += _named(name, emotion_scores(logits[head], truth, part.group, f"{split}/{shift}"))
    return Evaluation(split, tuple(figures), tuple(confusions), calibrations, emotions=tuple(emotions), faces=part)


def _named(labelling: str, figures: Sequence[Figure]) -> list[Figure]:
    return [replace(figure, metric=f"{labelling}/{figure.metric}") for figure in figures]


_COLUMNS = {
    "error_interocular": "error/ocular",
    "error_interocular_median": "median",
    "rmse_px": "RMSE px",
    "faces_above_10": "faces >10%",
    "points_within_5": "points <5%",
    "points_within_10": "points <10%",
    "detected_error_interocular": "error/ocular",
    "detected_error_interocular_median": "median",
    "detected_failures": ">10% or missed",
    "detected_missed": "missed",
}


def keypoint_table(evaluation: Evaluation) -> str:
    """Return the figures by split, source, pose and size, then by point, as text."""
    columns = [name for name in _COLUMNS if any(figure.metric == name for figure in evaluation.figures)]
    lines = [f"{'split':<24}{'faces':>6}" + "".join(f"{_COLUMNS[name]:>22}" for name in columns)]
    for split in dict.fromkeys(figure.split for figure in evaluation.figures):
        row = evaluation.of(split)
        cells = "".join(f"{row[c].text() if c in row else '-':>22}" for c in columns)
        lines.append(f"{split:<24}{max(figure.n for figure in row.values()):>6}{cells}")
    found = evaluation.of(evaluation.split)
    if "ced_auc_10" in found:
        mse, area = found["mse_px"].text(), found["ced_auc_10"].text()
        lines += [
            "",
            f"{evaluation.split}: MSE {mse} square px, area under the cumulative errors up to 10%: {area}",
        ]
    if by_point := point_figures(evaluation):
        lines += ["", f"{'point':<28}{'error/ocular':>22}"]
        lines += [f"{name:<28}{figure.text():>22}" for name, figure in by_point]
    return "\n".join(lines)


def point_figures(evaluation: Evaluation) -> list[tuple[str, Figure]]:
    """Return the error over the inter-ocular distance of each keypoint that was measured, with the keypoint's name."""
    found = evaluation.of(evaluation.split)
    return [(name, found[f"error_interocular/{name}"]) for name in KEYPOINTS if f"error_interocular/{name}" in found]


def emotion_table(evaluation: Evaluation) -> str:
    """Return accuracy, macro-F1 and calibration error by labelling and class, then accuracy by shift, as text."""
    found = {(figure.split, figure.metric): figure for figure in evaluation.figures}
    lines = []
    for confusion in evaluation.confusions:
        row = {
            metric.removeprefix(confusion.name + "/"): figure
            for (split, metric), figure in found.items()
            if split == evaluation.split and metric.startswith(confusion.name + "/")
        }
        lines += [
            f"{evaluation.split} {confusion.name}: accuracy {row['accuracy'].text()}, "
            f"macro-F1 {row['macro_f1'].text()}, "
            f"calibration error {row['calibration_error'].text()}, {row['accuracy'].n} faces",
            *_aligned_line(found, evaluation.split, confusion.name),
            f"  {'class':<10}{'faces':>6}{'recall':>22}{'precision':>22}{'F1':>22}{'ROC area':>22}",
        ]
        for index, label in enumerate(confusion.labels):
            if f"recall/{label}" in row:
                named = [row.get(f"{metric}/{label}") for metric in ("recall", "precision", "f1", "auc")]
                cells = "".join(f"{'-' if figure is None else figure.text():>22}" for figure in named)
                lines.append(f"  {label:<10}{confusion.table[index].sum():>6}{cells}")
        lines.append("")
    labellings = [
        c.name
        for c in evaluation.confusions
        if (f"{evaluation.split}/{next(iter(SHIFTS))}", f"{c.name}/accuracy") in found
    ]
    lines.append(f"{'accuracy':<24}" + "".join(f"{name:>22}" for name in labellings))
    for title, split in (("as they are", evaluation.split), *((name, f"{evaluation.split}/{name}") for name in SHIFTS)):
        cells = "".join(f"{found[split, f'{name}/accuracy'].text():>22}" for name in labellings)
        lines.append(f"{title:<24}{cells}")
    return "\n".join(lines)


def _aligned_line(found: Mapping[tuple[str, str], Figure], split: str, labelling: str) -> Iterator[str]:
    row = [found.get((f"{split}/{ALIGNED}", f"{labelling}/{name}")) for name in ("accuracy", "macro_f1")]
    cells = [figure.text() for figure in row if figure is not None]
    if cells:
        yield f"  aligned, as facexp crops faces: accuracy {cells[0]}, macro-F1 {cells[1]}"
