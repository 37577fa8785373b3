"""The predictions of models on the faces of a split: a picture (sheet) of faces, and a CSV file next to it."""

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

from facexp.address import as_utf8
from facexp.analyzer import Analyzer
from facexp.files import write_atomically
from facexp_train.augmentation.framing import cut_squares
from facexp_train.data import tables
from facexp_train.data.emotion_data import EmotionFaces, truths
from facexp_train.data.keypoint_data import COORDINATES, KeypointFaces
from facexp_train.errors import DataError
from facexp_train.evaluation.evaluate import Predict
from facexp_train.evaluation.metrics import keypoint_errors
from facexp_train.evaluation.ranking import face_caption, shortened
from facexp_train.progress import progress_bar
from facexp_train.reporting.sheets import COLUMNS, Cell, draw_sheet

Faces = KeypointFaces | EmotionFaces
Points = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Predictions:
    """The predictions for N faces, in the framing of the dataset.

    Attributes:
        crops: uint8 (N, S, S).
        points: float32 (N, 15, 2) in pixels of the crops, None if the model does not predict points.
        truth: float32 (N, 15, 2) labelled points, NaN where missing; None if the data has none.
        emotions: probabilities float64 (N, C) over `classes`, by the name of the network's output.
        classes: names of the emotions.
    """

    crops: NDArray[np.uint8]
    points: Points | None
    truth: Points | None
    emotions: Mapping[str, NDArray[np.float64]]
    classes: tuple[str, ...]


def framed(faces: Faces) -> tuple[NDArray[np.uint8], Points | None]:
    """uint8 crops (N, S, S), and for keypoint faces the labelled points (N, 15, 2) in them, otherwise None."""
    return (faces.images, None) if isinstance(faces, EmotionFaces) else cut_squares(faces)


def predict_with_network(predict: Predict, faces: Faces) -> Predictions:
    """The predictions of one network."""
    crops, truth = framed(faces)
    outputs = predict(crops[..., None])
    if isinstance(faces, KeypointFaces):
        return Predictions(crops, outputs["keypoints"], truth, {}, ())
    probabilities = {head: softmax(logits.astype(np.float64), axis=1) for head, logits in outputs.items()}
    return Predictions(crops, None, None, probabilities, faces.classes)


def predict_with_analyzer(analyzer: Analyzer, faces: Faces, quiet: bool = False) -> Predictions:
    """The predictions of the runtime's Analyzer, points and emotion, for crops that each show one face."""
    crops, truth = framed(faces)
    results = []
    with progress_bar(len(crops), "analysing", "face", quiet=quiet) as bar:
        for start in range(0, len(crops), 64):
            results += analyzer.analyze_crops(list(crops[start : start + 64]))
            bar.update(len(results) - start)
    probabilities = np.array([[face.emotion.probabilities[label] for label in analyzer.labels] for face in results])
    points = np.stack([face.keypoints for face in results]).astype(np.float32)
    return Predictions(crops, points, truth, {"emotion": probabilities}, tuple(analyzer.labels))


def predictions_path(sheet: Path) -> Path:
    """The path of a sheet's CSV file; DataError if either file exists and was not written by `write_predictions`."""
    path = sheet.with_suffix(".csv")
    if path.exists() and not _holds_predictions(path):
        raise DataError(
            f"{path}: the predictions would replace this file, which holds something else; give another --out"
        )
    if sheet.exists() and not path.exists():
        raise DataError(f"{sheet}: the sheet would replace this file, which is not an older sheet; give another --out")
    return path


def _holds_predictions(path: Path) -> bool:
    try:
        first, *others = tables.columns(path)
    except (DataError, ValueError):
        return False
    return first in ("face", "row") and any(name.startswith("true_") for name in others)


def write_predictions(predictions: Predictions, faces: Faces, sheet: Path, count: int) -> Path:
    """Write a sheet of `count` faces, a random but reproducible choice, and a CSV file of all faces; return its path.

    The CSV file has one row per face. It holds the face's name or row number. Of emotions it holds the true class, the
    predicted class and the probability of each class. Predicted points are in Kaggle's columns and labelled points in
    the same with the prefix "true_", in pixels of the crop (96 x 96 for keypoint faces; for Kaggle's files the crop is
    the whole picture). DataError as in `predictions_path`.
    """
    path = predictions_path(sheet)
    sheet.parent.mkdir(parents=True, exist_ok=True)
    rows = np.sort(np.random.default_rng(0).permutation(len(faces))[:count])
    # a file of its own is seen on a desktop screen, so it may be twice as wide as the sheets in a page
    draw_sheet([_cell(predictions, faces, int(row)) for row in rows], sheet, 2 * COLUMNS)
    columns = _columns(predictions, faces)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_atomically(path, as_utf8(text.getvalue()).encode())
    return path


def _columns(predictions: Predictions, faces: Faces) -> dict[str, Sequence[object]]:
    columns: dict[str, Sequence[object]] = {}
    if isinstance(faces, KeypointFaces):
        columns["face"] = faces.names.tolist()
    else:
        columns["row"] = faces.names.tolist()
        for labelling, codes in truths(faces).items():
            columns[f"true_{labelling}"] = [faces.classes[code] if code >= 0 else "" for code in codes]
    for head, probabilities in predictions.emotions.items():
        columns[f"predicted_{head}"] = [predictions.classes[code] for code in probabilities.argmax(axis=1)]
        for code, label in enumerate(predictions.classes):
            columns[f"{head}_{label}"] = [round(float(value), 4) for value in probabilities[:, code]]
    if predictions.points is not None and predictions.truth is not None:
        columns["error_percent"] = _numbers(100 * keypoint_errors(predictions.points, predictions.truth).face)
    for prefix, points in (("", predictions.points), ("true_", predictions.truth)):
        if points is not None:
            for name, values in zip(COORDINATES, points.reshape(len(points), -1).T, strict=True):
                columns[prefix + name] = _numbers(values)
    return columns


def _numbers(values: NDArray[Any]) -> list[object]:
    return [round(float(value), 3) if np.isfinite(value) else "" for value in values]


def _cell(predictions: Predictions, faces: Faces, row: int) -> Cell:
    if isinstance(faces, KeypointFaces):
        caption = [shortened(str(faces.names[row]))]
    else:
        caption = [face_caption(str(faces.names[row]))]
        for labelling, codes in truths(faces).items():
            caption.append(f"true {labelling}: {faces.classes[codes[row]] if codes[row] >= 0 else '-'}")
    for head, probabilities in predictions.emotions.items():
        code = int(probabilities[row].argmax())
        predicted = f"predicted {head}" if len(predictions.emotions) > 1 else "predicted"
        caption.append(f"{predicted}: {predictions.classes[code]} {100 * probabilities[row, code]:.0f}%")
    points = {"true": predictions.truth, "predicted": predictions.points}
    if predictions.truth is not None and predictions.points is not None:
        error = keypoint_errors(predictions.points[[row]], predictions.truth[[row]]).face[0]
        caption.append(f"error {100 * error:.1f}%" if np.isfinite(error) else "no error: eyes not labelled")
    return Cell(predictions.crops[row], caption, {kind: each[row] for kind, each in points.items() if each is not None})
