"""The report of a training run: training crops after augmentation, the best and worst predictions, and index.html."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from facexp_train.config import TrainConfig
from facexp_train.data.emotion_data import EmotionFaces
from facexp_train.data.keypoint_data import KeypointFaces
from facexp_train.evaluation.evaluate import Predict
from facexp_train.evaluation.prediction_sheets import draw_best_and_worst, draw_epochs, held_out
from facexp_train.fitting.batches import EmotionBatches, KeypointBatches
from facexp_train.fitting.milestones import read_answers
from facexp_train.reporting import page, sheets
from facexp_train.reporting.page import Picture, Section, Table
from facexp_train.stored import read_summary

_SETTLED = "samples_settled"


def draw_samples(
    batches: KeypointBatches | EmotionBatches, classes: tuple[str, ...], config: TrainConfig, out: Path, resume: bool
) -> None:
    """Draw the first crops of the first epoch after augmentation, with their targets, into `out`/samples.png.

    If the configuration has `settle_epochs`, those of the last epoch are drawn too, because its augmentation differs.
    `classes` are the names of the emotions. A resumed run keeps the pictures that it has drawn already.
    """
    epochs = {"samples": 0} | ({_SETTLED: config.epochs - 1} if config.settle_epochs else {})
    for name, epoch in epochs.items():
        path = out / f"{name}.png"
        if resume and path.is_file():
            continue
        batches.epoch = epoch
        crops, targets = batches[0]
        images = keras.ops.convert_to_numpy(crops)[: sheets.SHOWN, ..., 0]
        if isinstance(batches, KeypointBatches):
            known = np.where(targets[:, :, 2:] > 0, targets[:, :, :2], np.nan)
            cells = [sheets.Cell(image, (), {"true": points}) for image, points in zip(images, known, strict=False)]
        else:
            cells = [
                sheets.Cell(image, [_target_text(head, values[row], classes) for head, values in targets.items()])
                for row, image in enumerate(images)
            ]
        sheets.draw_sheet(cells, path)


def _target_text(head: str, target: NDArray[np.float32], classes: tuple[str, ...]) -> str:
    """The most probable class of a target and its probability; "-" for a face without a label."""
    if not target.any():
        return f"{head}: -"
    code = int(target.argmax())
    return f"{head}: {classes[code]} {100 * target[code]:.0f}%"


def draw_predictions(predict: Predict, faces: KeypointFaces | EmotionFaces, out: Path) -> list[Section]:
    """Draw the validation predictions of the run in `out`: of the trained network and of the saved epochs."""
    summary = read_summary(out)
    best, temperatures = summary["best_epoch"], summary.get("temperatures", {})
    held = held_out(faces)
    shipped = held.rank(predict(held.crops))
    sections = [Section("Best and worst predictions", draw_best_and_worst(shipped, out))]
    # the outputs of epochs were saved without temperatures, which are fitted to the final network afterwards
    epochs = {
        epoch: held.rank({head: values / temperatures.get(head, 1.0) for head, values in outputs.items()})
        for epoch, outputs in read_answers(out).items()
    }
    epochs = dict(sorted((epochs | {best: shipped}).items()))
    if len(epochs) > 1:
        sections.append(Section("Over the epochs", draw_epochs(epochs, best, out)))
    return sections


def write_page(config: TrainConfig, out: Path, predictions: list[Section]) -> Path:
    """Write index.html about the finished run in the directory `out`; return its path."""
    summary = read_summary(out)
    versions, command = (out / "command.txt").read_text(encoding="utf-8").splitlines()
    scores = [(name.removeprefix("val_"), 100 * value) for name, value in summary["validation"].items()]
    settings = [(key, _text(value)) for key, value in json.loads(config.to_json()).items()]
    facts = [(name, _text(value)) for name, value in summary.items() if name != "validation"]
    target = "the true points" if config.task == "keypoints" else "the most probable class and its probability"
    seen = f"Training crops after augmentation, with their targets: {target}."
    samples = [Picture("samples", seen, f"{seen} These are the first crops of the first epoch.")]
    if config.settle_epochs:
        samples.append(
            Picture(_SETTLED, seen, "The first crops of the last epoch, which is augmented as [settled] says.")
        )
    text = f"Epoch {summary['best_epoch']} of {summary['epochs_run']} was the best; model.keras holds its network."
    curves = Picture("curves", "Training loss, validation score and learning rate over the epochs.")
    sections = [
        Section(
            "Training", (text, curves, Table("validation", "Validation, best epoch", ("score", "value, %"), scores))
        ),
        Section("What the network saw", samples),
        *predictions,
        Section("Repeat it", (page.Code(command), versions.removeprefix("# "))),
        Section("Settings", (Table("settings", "Configuration", ("setting", "value"), settings, len(settings)),)),
        Section("Facts", (Table("facts", "What was trained", ("fact", "value"), facts, len(facts)),)),
    ]
    lead = f"facexp train {config.task} on {config.data}"
    return page.write(page.Page(f"Training run {out.resolve().name}", lead, sections), out, summary)


def _text(value: object) -> str | int | float:
    return value if isinstance(value, str | int | float) else json.dumps(value)
