"""The sheets of a run's predictions: the right faces of the right epoch, the same ones followed through all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

import drawn
from facexp.geometry import KEYPOINTS
from facexp_train.augmentation.framing import jittered_crops
from facexp_train.config import TrainConfig
from facexp_train.data.emotion_data import EmotionFaces, read_emotion
from facexp_train.data.keypoint_data import KeypointFaces, read_keypoints
from facexp_train.evaluation import prediction_sheets
from facexp_train.keypoints import KeypointJob
from facexp_train.reporting import sheets

Rows = dict[str, list[sheets.Cell]]


@pytest.fixture
def points(tmp_path: Path) -> KeypointFaces:
    drawn.write_training(tmp_path / "training.csv", 120)
    return read_keypoints(tmp_path / "training.csv", quiet=True)


@pytest.fixture
def emotions(tmp_path: Path) -> EmotionFaces:
    drawn.write_fer2013(tmp_path / "fer2013.csv", 14, 14)
    return read_emotion(tmp_path / "fer2013.csv", quiet=True)


@pytest.fixture
def drawn_rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, Rows]:
    """Record the rows of each sheet by the sheet's name; the sheets are drawn as well."""
    seen: dict[str, Rows] = {}

    def draw_rows(rows: Mapping[str, Sequence[sheets.Cell]], path: Path) -> None:
        seen[path.stem] = {name: list(cells) for name, cells in rows.items()}
        sheets.draw_rows(rows, path)

    monkeypatch.setattr(prediction_sheets, "draw_rows", draw_rows)
    return seen


def test_faces_are_followed_and_each_epoch_has_its_own_best(
    points: KeypointFaces, drawn_rows: dict[str, Rows], tmp_path: Path
) -> None:
    part = points.part("val")
    truth = jittered_crops(part)[1][part.complete()]
    held = prediction_sheets.held_out(points)
    assert len(truth) == len(held.crops) < len(part)
    offsets = np.arange(len(truth), dtype=np.float32)[:, None, None]
    # between the first epoch and the best one, the easy and the hard faces swap
    outputs = {1: truth + offsets[::-1] + 5, 9: truth + offsets}
    epochs = {epoch: held.rank({"keypoints": values}) for epoch, values in outputs.items()}
    pictures = prediction_sheets.draw_epochs(epochs, 9, tmp_path)
    assert [picture.name for picture in pictures] == list(drawn_rows) == ["followed", "epochs_best", "epochs_worst"]
    (first, before), (last, after) = drawn_rows["followed"].items()
    assert first.startswith("epoch 1: mean error ")
    assert last.startswith("epoch 9, the best: mean error ")
    assert [cell.caption[0] for cell in before] == [cell.caption[0] for cell in after]
    for cells, order in ((before, -1), (after, 1)):
        errors = [float(cell.caption[1].split()[1].rstrip("%")) for cell in cells]
        assert errors == sorted(errors)[::order]
    names = part.names[part.complete()].tolist()
    best, worst = (
        [cells[0].caption[0] for cells in drawn_rows[f"epochs_{kind}"].values()] for kind in ("best", "worst")
    )
    assert best == [names[-1], names[0]]
    assert worst == [names[0], names[-1]]


def test_an_epochs_predictions_are_for_the_faces_of_the_sheets(points: KeypointFaces) -> None:
    """Guards a run's last page when a validation face has both eyes at one place, and so no error."""
    whole = np.flatnonzero((points.split == "val") & points.complete())
    left, right = (KEYPOINTS.index(f"{side}_eye_center") for side in ("left", "right"))
    points.points[whole[1], left] = points.points[whole[1], right]
    crops = KeypointJob(points, TrainConfig("keypoints", "", batch_size=8), quiet=True).held[0]
    assert len(crops) == len(whole) - 1
    assert np.array_equal(crops, prediction_sheets.held_out(points).crops)


def test_the_row_of_an_epoch_without_mistakes_is_omitted(
    emotions: EmotionFaces, drawn_rows: dict[str, Rows], tmp_path: Path
) -> None:
    part = emotions.part("val")
    right = 3 * np.eye(7, dtype=np.float32)[part.labels]
    wrong = right.copy()
    wrong[:2] = right[:2, ::-1]
    # the fourth class is its own mirror image
    mistakes = int((part.labels[:2] != 3).sum())
    held = prediction_sheets.held_out(emotions)
    epochs = {epoch: held.rank({"fer2013": values}) for epoch, values in ((1, wrong), (2, right))}
    pictures = prediction_sheets.draw_epochs(epochs, 2, tmp_path)
    shown = {name: len(cells) for name, cells in drawn_rows["epochs_worst_fer2013"].items()}
    assert shown == {
        f"epoch 1: {100 * (14 - mistakes) / 14:.1f}% correct": mistakes,
        "epoch 2, the best: 100.0% correct": 0,
    }
    heights = [cv2.imread(str(tmp_path / f"{picture.name}.png")).shape[0] for picture in pictures]
    assert heights[2] == pytest.approx(heights[0] / 2, abs=1)
    large = prediction_sheets.draw_best_and_worst(epochs[2], tmp_path)
    assert [picture.name for picture in large] == ["best_fer2013"]
    assert large[0].caption == "The most confident correct predictions on the validation faces, by FER2013's labels."
