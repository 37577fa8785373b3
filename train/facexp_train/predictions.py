"""What models answer to the faces of a split: a sheet to look at, and a CSV file beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from facexp.analyzer import Analyzer
from facexp.files import write_atomically
from facexp_train import tables
from facexp_train.answered import called, short
from facexp_train.emotion_data import EmotionFaces, truths
from facexp_train.errors import DataError
from facexp_train.evaluate import Predict
from facexp_train.framing import cut_squares
from facexp_train.keypoint_data import COORDINATES, KeypointFaces
from facexp_train.metrics import keypoint_errors
from facexp_train.progress import progress_bar
from facexp_train.sheets import COLUMNS, Cell, draw_sheet

Faces = KeypointFaces | EmotionFaces
Points = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Answers:
    """What was answered to N faces, framed as their labels frame them.

    Attributes:
        crops: uint8 (N, S, S).
        points: float32 (N, 15, 2) in pixels of the crops, None where nobody was asked for them.
        truth: float32 (N, 15, 2) labelled points, NaN where missing; None where the data has none.
        emotions: probabilities float (N, C) over `classes`, by the output that says so.
        classes: names of the emotions.
    """

    crops: NDArray[np.uint8]
    points: Points | None
    truth: Points | None
    emotions: Mapping[str, NDArray[np.float64]]
    classes: tuple[str, ...]


def framed(faces: Faces) -> tuple[NDArray[np.uint8], Points | None]:
    """uint8 crops (N, S, S) and, of keypoint faces, the labelled points in them."""
    return (faces.images, None) if isinstance(faces, EmotionFaces) else cut_squares(faces)


def ask(predict: Predict, faces: Faces) -> Answers:
    """What one network answers."""
    crops, truth = framed(faces)
    outputs = predict(crops[..., None])
    if isinstance(faces, KeypointFaces):
        return Answers(crops, outputs["keypoints"], truth, {}, ())
    chances = {head: softmax(logits.astype(np.float64), axis=1) for head, logits in outputs.items()}
    return Answers(crops, None, None, chances, faces.classes)


def ask_product(analyzer: Analyzer, faces: Faces, quiet: bool = False) -> Answers:
    """What the product answers, points and emotion, to crops that each show one face."""
    crops, truth = framed(faces)
    found = []
    with progress_bar(len(crops), "analysing", "face", quiet=quiet) as bar:
        for start in range(0, len(crops), 64):
            found += analyzer.analyze_crops(list(crops[start : start + 64]))
            bar.update(len(found) - start)
    chances = np.array([[face.emotion.probabilities[label] for label in analyzer.labels] for face in found])
    points = np.stack([face.keypoints for face in found]).astype(np.float32)
    return Answers(crops, points, truth, {"emotion": chances}, tuple(analyzer.labels))


def answers_beside(sheet: Path) -> Path:
    """The CSV file that goes with a sheet; DataError where either would replace what is no older one of these."""
    path = sheet.with_suffix(".csv")
    if path.exists() and not _holds_answers(path):
        raise DataError(f"{path}: the answers would replace this file, which holds something else; name another --out")
    if sheet.exists() and not path.exists():
        raise DataError(f"{sheet}: the sheet would replace this file, no older one of ours; name another --out")
    return path


def _holds_answers(path: Path) -> bool:
    try:
        first, *others = tables.columns(path)
    except (DataError, ValueError):
        return False
    return first in ("face", "row") and any(name.startswith("true_") for name in others)


def write_predictions(answers: Answers, faces: Faces, sheet: Path, count: int) -> Path:
    """The sheet of `count` faces, chosen by chance but always the same, and a CSV file of all; returns its path.

    The CSV file has a row a face: its name or row number, the true class, the predicted class and every class's
    probability; Kaggle's columns for the predicted points and "true_..." for the labelled ones, in pixels of the crop
    (96 x 96 for keypoint faces, which of Kaggle's files is the whole picture). DataError as `answers_beside`.
    """
    path = answers_beside(sheet)
    sheet.parent.mkdir(parents=True, exist_ok=True)
    rows = np.sort(np.random.default_rng(0).permutation(len(faces))[:count])
    # a picture by itself, seen on a desk
    draw_sheet([_cell(answers, faces, int(row)) for row in rows], sheet, 2 * COLUMNS)
    columns = _columns(answers, faces)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_atomically(path, text.getvalue().encode())
    return path


def _columns(answers: Answers, faces: Faces) -> dict[str, Sequence[object]]:
    columns: dict[str, Sequence[object]] = {}
    if isinstance(faces, KeypointFaces):
        columns["face"] = faces.names.tolist()
    else:
        columns["row"] = faces.names.tolist()
        for labelling, codes in truths(faces).items():
            columns[f"true_{labelling}"] = [faces.classes[code] if code >= 0 else "" for code in codes]
    for head, chances in answers.emotions.items():
        columns[f"predicted_{head}"] = [answers.classes[code] for code in chances.argmax(axis=1)]
        for code, label in enumerate(answers.classes):
            columns[f"{head}_{label}"] = [round(float(value), 4) for value in chances[:, code]]
    if answers.points is not None and answers.truth is not None:
        columns["error_percent"] = _numbers(100 * keypoint_errors(answers.points, answers.truth).face)
    for prefix, points in (("", answers.points), ("true_", answers.truth)):
        if points is not None:
            for name, values in zip(COORDINATES, points.reshape(len(points), -1).T, strict=True):
                columns[prefix + name] = _numbers(values)
    return columns


def _numbers(values: NDArray[Any]) -> list[object]:
    return [round(float(value), 3) if np.isfinite(value) else "" for value in values]


def _cell(answers: Answers, faces: Faces, row: int) -> Cell:
    if isinstance(faces, KeypointFaces):
        caption = [short(str(faces.names[row]))]
    else:
        caption = [called(str(faces.names[row]))]
        for labelling, codes in truths(faces).items():
            caption.append(f"true {labelling}: {faces.classes[codes[row]] if codes[row] >= 0 else '-'}")
    for head, chances in answers.emotions.items():
        code = int(chances[row].argmax())
        said = f"said {head}" if len(answers.emotions) > 1 else "said"
        caption.append(f"{said}: {answers.classes[code]} {100 * chances[row, code]:.0f}%")
    points = {"true": answers.truth, "predicted": answers.points}
    if answers.truth is not None and answers.points is not None:
        error = keypoint_errors(answers.points[[row]], answers.truth[[row]]).face[0]
        caption.append(f"error {100 * error:.1f}%" if np.isfinite(error) else "no error: eyes not labelled")
    return Cell(answers.crops[row], caption, {kind: each[row] for kind, each in points.items() if each is not None})
