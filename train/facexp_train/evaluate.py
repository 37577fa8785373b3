"""Score a model on a split: figures with intervals, a table for the terminal, and a confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facexp.geometry import KEYPOINTS
from facexp.labels import FIVE, SEVEN
from facexp_train.emotion import truths
from facexp_train.emotion_data import EmotionFaces
from facexp_train.errors import DataError
from facexp_train.keypoint_data import KeypointFaces
from facexp_train.keypoints import jittered_crops
from facexp_train.metrics import Figure, KeypointErrors, emotion_figures, keypoint_errors, keypoint_figures

Predict = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]
"""uint8 crops (N, S, S, 1) -> arrays by output name, whatever runs the model."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """A confusion matrix: true rows, predicted columns."""

    name: str
    labels: tuple[str, ...]
    table: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured on one split. `worst` are the keypoint faces with the largest errors, as (name, error)."""

    split: str
    figures: tuple[Figure, ...]
    confusions: tuple[Confusion, ...] = ()
    worst: tuple[tuple[str, float], ...] = ()

    def value(self, metric: str, split: str | None = None) -> float:
        """The figure of that name; KeyError where it was not measured."""
        wanted = split or self.split
        for figure in self.figures:
            if figure.metric == metric and figure.split == wanted:
                return figure.value
        raise KeyError(f"{metric} on {wanted} was not measured")


@dataclass(slots=True)
class _Collected:
    figures: list[Figure] = field(default_factory=list)
    confusions: list[Confusion] = field(default_factory=list)


def evaluate_keypoints(predict: Predict, faces: KeypointFaces, split: str) -> Evaluation:
    """Errors on the jittered crops of one split: over all faces, and for each source (metric split "SPLIT/SOURCE").

    DataError where the split is empty.
    """
    part = faces.part(split)
    if not len(part.images):
        raise DataError(f"the data has no faces in split {split!r}; it has {', '.join(np.unique(faces.split))}")
    crops, points = jittered_crops(part)
    errors = keypoint_errors(predict(crops)["keypoints"], points)
    figures = keypoint_figures(errors, part.group, split)
    for source in np.unique(part.source):
        chosen = part.source == source
        each = KeypointErrors(errors.pixels[chosen], errors.relative[chosen], errors.face[chosen])
        figures += keypoint_figures(each, part.group[chosen], f"{split}/{source}")
    order = np.argsort(-np.nan_to_num(errors.face, nan=-1.0))[:20]
    worst = tuple((str(part.names[i]), float(errors.face[i])) for i in order if np.isfinite(errors.face[i]))
    return Evaluation(split, tuple(figures), worst=worst)


def evaluate_emotion(predict: Predict, faces: EmotionFaces, split: str) -> Evaluation:
    """Scores of each head against its own labelling, over seven classes and, for faces of those, over the five.

    Metrics are named "fer2013/accuracy", "ferplus_five/macro_f1" and so on. DataError where the split is empty.
    """
    part = faces.part(split)
    if not len(part.images):
        raise DataError(f"the data has no faces in split {split!r}; it has {', '.join(np.unique(faces.split))}")
    logits = predict(part.images[..., None])
    result = _Collected()
    for head, truth in truths(part).items():
        if head not in logits:
            continue
        five = np.array([SEVEN.index(label) for label in FIVE])
        truth_five = np.full(len(SEVEN) + 1, -1)
        truth_five[five] = np.arange(len(FIVE))
        _score(result, head, logits[head], truth, SEVEN, split)
        _score(result, f"{head}_five", logits[head][:, five], truth_five[truth], FIVE, split)
    return Evaluation(split, tuple(result.figures), tuple(result.confusions))


def _score(
    result: _Collected,
    name: str,
    logits: NDArray[np.float32],
    truth: NDArray[Any],
    labels: Sequence[str],
    split: str,
) -> None:
    if not (truth >= 0).any():
        return
    figures, table = emotion_figures(logits, truth, labels, split)
    result.figures += [Figure(f.split, f"{name}/{f.metric}", f.value, f.low, f.high, f.n) for f in figures]
    result.confusions.append(Confusion(name, tuple(labels), table))


def keypoint_table(evaluation: Evaluation) -> str:
    """Figures per split and source, then per point, as text."""
    columns = (
        "error_interocular",
        "error_interocular_median",
        "rmse_px",
        "faces_above_10",
        "points_within_5",
        "points_within_10",
    )
    titles = ("error/ocular", "median", "RMSE px", "faces >10%", "points <5%", "points <10%")
    lines = [f"{'split':<16}{'faces':>6}" + "".join(f"{title:>22}" for title in titles)]
    splits = list(dict.fromkeys(figure.split for figure in evaluation.figures))
    for split in splits:
        row = {f.metric: f for f in evaluation.figures if f.split == split}
        cells = "".join(f"{_cell(row[c], 'px' not in c):>22}" for c in columns)
        lines.append(f"{split:<16}{row[columns[0]].n:>6}{cells}")
    lines += ["", f"{'point':<28}{'error/ocular':>22}"]
    for name in KEYPOINTS:
        found = [
            f for f in evaluation.figures if f.metric == f"error_interocular/{name}" and f.split == evaluation.split
        ]
        lines += [f"{name:<28}{_cell(f, True):>22}" for f in found]
    return "\n".join(lines)


def emotion_table(evaluation: Evaluation) -> str:
    """Accuracy and macro-F1 per head, then the classes, as text."""
    lines = []
    for confusion in evaluation.confusions:
        row = {
            f.metric.removeprefix(confusion.name + "/"): f
            for f in evaluation.figures
            if f.metric.startswith(confusion.name + "/")
        }
        lines += [
            f"{evaluation.split} {confusion.name}: accuracy {_cell(row['accuracy'], True)}, "
            f"macro-F1 {_cell(row['macro_f1'], True)}, {row['accuracy'].n} faces",
            f"  {'class':<10}{'faces':>6}{'recall':>22}{'precision':>22}{'F1':>22}",
        ]
        for index, label in enumerate(confusion.labels):
            if f"recall/{label}" in row:
                cells = "".join(f"{_cell(row[f'{m}/{label}'], True):>22}" for m in ("recall", "precision", "f1"))
                lines.append(f"  {label:<10}{confusion.table[index].sum():>6}{cells}")
        lines.append("")
    return "\n".join(lines).rstrip()


def _cell(figure: Figure, percent: bool) -> str:
    factor, digits = (100, 1) if percent else (1, 2)
    value, low, high = (f"{factor * v:.{digits}f}" for v in (figure.value, figure.low, figure.high))
    return f"{value} [{low}, {high}]"
