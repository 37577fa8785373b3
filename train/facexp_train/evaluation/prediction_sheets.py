"""Sheets of a run's predictions for the validation faces: the best, the worst, and how they changed over the epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp_train.augmentation.framing import jittered_crops
from facexp_train.data.emotion_data import EmotionFaces, truths
from facexp_train.data.keypoint_data import KeypointFaces
from facexp_train.evaluation.evaluate import EmotionPredictions, KeypointPredictions
from facexp_train.evaluation.ranking import LABELLINGS, EmotionRanking, KeypointRanking, Ranking
from facexp_train.reporting.page import Picture
from facexp_train.reporting.sheets import SHOWN, SMALL_COLUMNS, draw_rows, draw_sheet

Outputs = Mapping[str, NDArray[np.float32]]
"""A network's outputs (N, ...) for the validation faces that choose the best epoch, by output name."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The validation faces that choose the best epoch."""

    crops: NDArray[np.uint8]
    """uint8 (N, S, S, 1)"""
    rank: Callable[[Outputs], dict[str, Ranking]]
    """Turns a network's outputs for these faces into a ranking by head; keypoints have one head, ""."""


def held_out(faces: KeypointFaces | EmotionFaces) -> HeldOut:
    """Return the validation faces of a dataset; of keypoint faces only those that can be rated."""
    part = faces.part("val")
    if isinstance(part, EmotionFaces):
        truth = truths(part)
        return HeldOut(
            part.images[..., None],
            lambda outputs: {
                head: EmotionRanking(EmotionPredictions(head, part.classes, outputs[head], codes, part.group), part)
                for head, codes in truth.items()
            },
        )
    crops, points = jittered_crops(part)
    rows = part.rated()
    crops, points, names, groups = crops[rows], points[rows], part.names[rows], part.group[rows]

    def rank(outputs: Outputs) -> dict[str, Ranking]:
        return {"": KeypointRanking(KeypointPredictions(crops[..., 0], points, outputs["keypoints"], names, groups))}

    return HeldOut(crops, rank)


def draw_best_and_worst(rankings: Mapping[str, Ranking], out: Path) -> list[Picture]:
    """Draw the best and the worst predictions of one epoch as PNGs in the folder `out`: two sheets per head."""
    pictures = []
    for head, ranking in rankings.items():
        for name, rows in (("best", ranking.best()), ("worst", ranking.worst())):
            if len(rows):
                picture = _picture(name, head, f"{_TITLES[bool(head), name]} on the validation faces")
                draw_sheet([ranking.cell(row) for row in rows[:SHOWN]], out / f"{picture.name}.png")
                pictures.append(picture)
    return pictures


def draw_epochs(epochs: Mapping[int, Mapping[str, Ranking]], best: int, out: Path) -> list[Picture]:
    """Draw sheets with a row of faces per epoch as PNGs in the folder `out`: three sheets per head.

    They show the same faces in every epoch, each epoch's best predictions, and its worst. `epochs` holds rankings by
    epoch number and head, among them those of the `best` epoch.
    """
    pictures = []
    for head in epochs[best]:
        rankings = {epoch: by_head[head] for epoch, by_head in epochs.items()}
        ranked = rankings[best].ranked()
        same = ranked[[len(ranked) * part // 8 for part in (1, 3, 5, 7)]]
        caption = "The same four faces in each epoch, from a good prediction of the best epoch to a bad one"
        sheets = {_picture("followed", head, caption): dict.fromkeys(rankings, same)}
        for name in ("best", "worst"):
            picture = _picture(f"epochs_{name}", head, f"{_TITLES[bool(head), name]} of each epoch")
            sheets[picture] = {e: each.best() if name == "best" else each.worst() for e, each in rankings.items()}
        for picture, chosen in sheets.items():
            rows = {
                f"epoch {epoch}{', the best' if epoch == best else ''}: {rankings[epoch].score()}": [
                    rankings[epoch].cell(face) for face in of_epoch[:SMALL_COLUMNS]
                ]
                for epoch, of_epoch in chosen.items()
            }
            if any(rows.values()):
                draw_rows(rows, out / f"{picture.name}.png")
                pictures.append(picture)
    return pictures


_TITLES = {
    (False, "best"): "The smallest errors over the inter-ocular distance",
    (False, "worst"): "The largest errors over the inter-ocular distance",
    (True, "best"): "The most confident correct predictions",
    (True, "worst"): "The most confident mistakes",
}


def _picture(name: str, head: str, title: str) -> Picture:
    caption = f"{title}, by {LABELLINGS.get(head, head)}." if head else f"{title}."
    return Picture(f"{name}_{head}" if head else name, caption, caption)
