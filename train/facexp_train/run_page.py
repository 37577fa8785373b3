"""What a training run leaves for people: crops as the network saw them, its best and worst answers, and one page."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from facexp_train import page, sheets
from facexp_train.batches import EmotionBatches, KeypointBatches
from facexp_train.config import TrainConfig
from facexp_train.emotion_data import EmotionFaces, truths
from facexp_train.evaluate import Located, Predict, View
from facexp_train.evaluation_page import answered_cells, located_cells
from facexp_train.framing import jittered_crops
from facexp_train.keypoint_data import KeypointFaces
from facexp_train.page import Picture, Section, Table

_SHOWN = 24
_SETTLED = "samples_settled"


def draw_samples(
    batches: KeypointBatches | EmotionBatches, classes: tuple[str, ...], config: TrainConfig, out: Path
) -> None:
    """The first crops of the first epoch after augmentation, with what they are to teach; and of the last epoch where
    that changes its crops in another way. `classes` are the emotions' names.
    """
    epochs = {"samples": 0} | ({_SETTLED: config.epochs - 1} if config.settle_epochs else {})
    for name, epoch in epochs.items():
        batches.epoch = epoch
        crops, targets = batches[0]
        images = keras.ops.convert_to_numpy(crops)[:_SHOWN, ..., 0]
        if isinstance(batches, KeypointBatches):
            known = np.where(targets[:, :, 2:] > 0, targets[:, :, :2], np.nan)
            cells = [sheets.Cell(image, (), {"true": points}) for image, points in zip(images, known, strict=False)]
        else:
            cells = [
                sheets.Cell(image, [_taught(head, values[row], classes) for head, values in targets.items()])
                for row, image in enumerate(images)
            ]
        sheets.draw_sheet(cells, out / f"{name}.png")


def _taught(head: str, target: NDArray[np.float32], classes: tuple[str, ...]) -> str:
    if not target.any():
        return f"{head}: -"
    code = int(target.argmax())
    return f"{head}: {classes[code]} {100 * target[code]:.0f}%"


def draw_answers(predict: Predict, faces: KeypointFaces | EmotionFaces, out: Path) -> list[Picture]:
    """The best and the worst answers of a trained network to the validation faces, two sheets a head."""
    part = faces.part("val")
    pictures = []
    if isinstance(part, KeypointFaces):
        crops, points = jittered_crops(part)
        located = Located(crops[..., 0], points, predict(crops)["keypoints"], part.names, part.group)
        for name, best in (("best", True), ("worst", False)):
            sheets.draw_sheet(located_cells(located, _SHOWN, best), out / f"{name}.png")
            caption = (
                f"Validation faces with the {'smallest' if best else 'largest'} errors over the inter-ocular distance."
            )
            pictures.append(Picture(name, caption, caption))
        return pictures
    logits = predict(part.images[..., None])
    for head, truth in truths(part).items():
        for name, right in (("best", True), ("worst", False)):
            cells = answered_cells(View(head, part.classes, logits[head], truth), part, _SHOWN, right)
            if cells:
                sheets.draw_sheet(cells, out / f"{name}_{head}.png")
                what = "right answers" if right else "mistakes"
                caption = f"The most confident {what} on the validation faces, by the labels of {head}."
                pictures.append(Picture(f"{name}_{head}", caption, caption))
    return pictures


def write_page(config: TrainConfig, out: Path, answers: list[Picture]) -> Path:
    """index.html over all that lies in the run directory `out`, which has ended."""
    summary = json.loads((out / "summary.json").read_text())
    versions, command = (out / "command.txt").read_text().splitlines()
    scores = [(name.removeprefix("val_"), value) for name, value in summary["validation"].items()]
    settings = [(key, _text(value)) for key, value in json.loads(config.to_json()).items()]
    facts = [(name, _text(value)) for name, value in summary.items() if name != "validation"]
    seen = "Training crops after every change, with what they teach: true points, or the share of the leading class."
    samples = [Picture("samples", seen, f"{seen} The first of the first epoch.")]
    if config.settle_epochs:
        samples.append(Picture(_SETTLED, seen, f"The same in the last {config.settle_epochs} epochs."))
    text = f"Epoch {summary['best_epoch']} of {summary['epochs_run']} was the best and is what model.keras holds."
    curves = Picture("curves", "Training loss, validation score and learning rate over the epochs.")
    sections = [
        Section("Training", (text, curves, Table("validation", "Validation, best epoch", ("score", "value"), scores))),
        Section("What the network saw", samples),
        Section("Best and worst answers", answers),
        Section("Repeat it", (command, versions.removeprefix("# "))),
        Section("Settings", (Table("settings", "Configuration", ("setting", "value"), settings, len(settings)),)),
        Section("Facts", (Table("facts", "What was trained", ("fact", "value"), facts, len(facts)),)),
    ]
    lead = f"facexp train {config.task} on {config.data}"
    return page.write(page.Page(f"Training run {out.resolve().name}", lead, sections), out, summary)


def _text(value: object) -> str | int | float:
    return value if isinstance(value, str | int | float) else json.dumps(value)
