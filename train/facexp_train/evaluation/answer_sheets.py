"""Sheets of a run's answers to the validation faces: the best, the worst, and how they changed over the epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp_train.augmentation.framing import jittered_crops
from facexp_train.data.emotion_data import EmotionFaces, truths
from facexp_train.data.keypoint_data import KeypointFaces
from facexp_train.evaluation.answered import LABELLINGS, Answered, AnsweredEmotions, AnsweredPoints
from facexp_train.evaluation.evaluate import Located, View
from facexp_train.reporting.page import Picture
from facexp_train.reporting.sheets import SHOWN, SMALL_COLUMNS, draw_rows, draw_sheet

Outputs = Mapping[str, NDArray[np.float32]]
"""A network's outputs (N, ...) for the validation faces that choose the best epoch, by output name."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The validation faces that choose the best epoch."""

    crops: NDArray[np.uint8]
    """uint8 (N, S, S, 1)"""
    judge: Callable[[Outputs], dict[str, Answered]]
    """Turns a network's outputs for these faces into answers by head; keypoints have one head, ""."""


def held_out(faces: KeypointFaces | EmotionFaces) -> HeldOut:
    """Return the validation faces of a dataset; of keypoint faces only those that can be rated."""
    part = faces.part("val")
    if isinstance(part, EmotionFaces):
        truth = truths(part)
        return HeldOut(
            part.images[..., None],
            lambda outputs: {
                head: AnsweredEmotions(View(head, part.classes, outputs[head], codes, part.group), part)
                for head, codes in truth.items()
            },
        )
    crops, points = jittered_crops(part)
    rows = part.rated()
    shown, names, group = (crops[rows, ..., 0], points[rows]), part.names[rows], part.group[rows]
    return HeldOut(
        crops[rows], lambda outputs: {"": AnsweredPoints(Located(*shown, outputs["keypoints"], names, group))}
    )


def draw_best_and_worst(heads: Mapping[str, Answered], out: Path) -> list[Picture]:
    """Draw the best and the worst answers of one epoch as PNGs in the folder `out`: two sheets per head."""
    pictures = []
    for head, answered in heads.items():
        for name, rows in (("best", answered.best()), ("worst", answered.worst())):
            if len(rows):
                picture = _picture(name, head, f"{_TITLES[bool(head), name]} on the validation faces")
                draw_sheet([answered.cell(row) for row in rows[:SHOWN]], out / f"{picture.name}.png")
                pictures.append(picture)
    return pictures


def draw_epochs(epochs: Mapping[int, Mapping[str, Answered]], best: int, out: Path) -> list[Picture]:
    """Draw sheets with a row of faces per epoch as PNGs in the folder `out`: three sheets per head.

    They show the same faces in every epoch, each epoch's best answers, and its worst. `epochs` holds answers by epoch
    number and head, among them those of the `best` epoch.
    """
    pictures = []
    for head in epochs[best]:
        answered = {epoch: heads[head] for epoch, heads in epochs.items()}
        ranked = answered[best].ranked()
        same = ranked[[len(ranked) * part // 8 for part in (1, 3, 5, 7)]]
        caption = "The same four faces in each epoch, from a good answer of the best epoch to a bad one"
        sheets = {_picture("followed", head, caption): dict.fromkeys(answered, same)}
        for name in ("best", "worst"):
            picture = _picture(f"epochs_{name}", head, f"{_TITLES[bool(head), name]} of each epoch")
            sheets[picture] = {e: each.best() if name == "best" else each.worst() for e, each in answered.items()}
        for picture, chosen in sheets.items():
            rows = {
                f"epoch {epoch}{', the best' if epoch == best else ''}: {answered[epoch].score()}": [
                    answered[epoch].cell(face) for face in of_epoch[:SMALL_COLUMNS]
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
    (True, "best"): "The most confident correct answers",
    (True, "worst"): "The most confident mistakes",
}


def _picture(name: str, head: str, title: str) -> Picture:
    caption = f"{title}, by {LABELLINGS.get(head, head)}." if head else f"{title}."
    return Picture(f"{name}_{head}" if head else name, caption, caption)
