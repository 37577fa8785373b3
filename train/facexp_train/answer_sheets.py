"""Sheets of a run's answers to the validation faces: the best and the worst ones, and how they came about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp_train.answered import LABELLINGS, Answered, AnsweredEmotions, AnsweredPoints
from facexp_train.emotion_data import EmotionFaces, truths
from facexp_train.evaluate import Located, View
from facexp_train.framing import jittered_crops
from facexp_train.keypoint_data import KeypointFaces
from facexp_train.page import Picture
from facexp_train.sheets import SMALL_COLUMNS, draw_rows, draw_sheet

Outputs = Mapping[str, NDArray[np.float32]]
"""What a network answered to the validation faces that choose the epoch, by output name."""

_SHOWN = 18


def scored_crops(faces: KeypointFaces | EmotionFaces) -> NDArray[np.uint8]:
    """The crops (N, S, S, 1) of the validation faces that choose the epoch."""
    part = faces.part("val")
    return jittered_crops(part)[0][part.complete()] if isinstance(part, KeypointFaces) else part.images[..., None]


def draw_best_and_worst(outputs: Outputs, faces: KeypointFaces | EmotionFaces, out: Path) -> list[Picture]:
    """The best and the worst answers of one epoch as PNGs in the folder `out`, two sheets a head."""
    pictures = []
    for head, answered in _answered({0: outputs}, faces).items():
        for name, rows in (("best", answered[0].best()), ("worst", answered[0].worst())):
            if len(rows):
                picture = _picture(name, head, f"{_WHAT[bool(head), name]} on the validation faces")
                draw_sheet([answered[0].cell(row) for row in rows[:_SHOWN]], out / f"{picture.name}.png")
                pictures.append(picture)
    return pictures


def draw_epochs(
    epochs: Mapping[int, Outputs], best: int, faces: KeypointFaces | EmotionFaces, out: Path
) -> list[Picture]:
    """A row of faces for each epoch as PNGs in the folder `out`: the same faces, the best, the worst.

    `epochs` holds the outputs of some epochs by number, among them those of the `best` one.
    """
    pictures = []
    for head, answered in _answered(epochs, faces).items():
        ranked = answered[best].ranked()
        same = ranked[[len(ranked) * part // 8 for part in (1, 3, 5, 7)]]
        said = "The same four faces in each epoch, from one that the best epoch answers well to one that it does not"
        sheets = {_picture("followed", head, said): dict.fromkeys(answered, same)}
        for name in ("best", "worst"):
            picture = _picture(f"epochs_{name}", head, f"{_WHAT[bool(head), name]} of each epoch")
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


_WHAT = {
    (False, "best"): "The smallest errors over the inter-ocular distance",
    (False, "worst"): "The largest errors over the inter-ocular distance",
    (True, "best"): "The most confident right answers",
    (True, "worst"): "The most confident mistakes",
}


def _picture(name: str, head: str, what: str) -> Picture:
    caption = f"{what}, by {LABELLINGS.get(head, head)}." if head else f"{what}."
    return Picture(f"{name}_{head}" if head else name, caption, caption)


def _answered(epochs: Mapping[int, Outputs], faces: KeypointFaces | EmotionFaces) -> dict[str, dict[int, Answered]]:
    """The answers of each head, "" where there is but one, by epoch."""
    part = faces.part("val")
    if isinstance(part, EmotionFaces):
        return {
            head: {
                e: AnsweredEmotions(View(head, part.classes, outputs[head], truth), part)
                for e, outputs in epochs.items()
            }
            for head, truth in truths(part).items()
        }
    crops, points = jittered_crops(part)
    rows = part.complete()
    shown = crops[rows, ..., 0], points[rows]
    return {
        "": {
            epoch: AnsweredPoints(Located(*shown, outputs["keypoints"], part.names[rows], part.group[rows]))
            for epoch, outputs in epochs.items()
        }
    }
