"""Which faces an export calibrates on and judges on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facexp_export import faces
from facexp_export.errors import ExportError
from facexp_export.faces import RealFaces, read_faces, real_faces
from facexp_export.recipe import read_recipe
from facexp_export.run import _without_paths
from facexp_export.tasks import TASKS
from facexp_train.data.emotion_data import read_emotion
from facexp_train.data.keypoint_data import read_keypoints
from facexp_train.data.splits import pixel_hash


def crops_of(task: str, data: Path) -> RealFaces:
    return real_faces(read_faces(TASKS[task], data, 0), data, read_recipe())


def test_emotion_faces_keep_to_their_split(emotion_run: Path, workspace: Path) -> None:
    """Guards calibration on training faces alone and the verdict on validation faces alone."""
    data = workspace / "emotions"
    chosen = crops_of("emotion", data)
    every = read_emotion(data)
    assert np.isin(pixel_hash(chosen.calibration), pixel_hash(every.part("train").images)).all()
    assert np.isin(pixel_hash(chosen.parity), pixel_hash(every.part("val").images)).all()
    assert chosen.parity.shape == (512, 48, 48, 1)


def test_keypoint_faces_are_framed_as_a_detector_would(keypoint_run: Path, workspace: Path) -> None:
    """Guards crops of jittered squares: never the true square itself, and the same ones every time."""
    data = workspace / "points"
    chosen = crops_of("keypoints", data)
    assert chosen.parity.shape == (512, 96, 96, 1)
    assert chosen.calibration.dtype == np.uint8
    np.testing.assert_array_equal(chosen.parity, crops_of("keypoints", data).parity)
    held = read_keypoints(data).part("val")
    plain = np.stack([cv2.resize(image, (96, 96)) for image in held.images])[..., None]
    assert not np.isin(pixel_hash(chosen.parity), pixel_hash(plain)).any()


def test_a_face_in_both_splits_is_not_used_for_calibration(
    emotion_run: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the verdict against copies of a validation face among the training faces."""
    every = read_emotion(workspace / "emotions")
    train, held = every.part("train"), every.part("val")
    train.images[:5] = held.images[:5]

    class Mixed:
        def of(self, _: Any) -> Any:
            return self

        def part(self, split: str) -> Any:
            return train if split == "train" else held

    monkeypatch.setattr(faces, "read_emotion", lambda *_, **__: Mixed())
    chosen = crops_of("emotion", workspace)
    assert len(chosen.calibration) == len(train) - 5
    assert not np.isin(pixel_hash(chosen.calibration), pixel_hash(chosen.parity)).any()


def test_few_validation_faces_are_cropped_more_than_once(
    keypoint_run: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a file of 2,140 rows, a tenth of which is fewer than 512 faces: more crops of the same faces are added."""
    monkeypatch.setattr(faces, "MIN_PARITY_CROPS", 700)
    parity = crops_of("keypoints", workspace / "points").parity
    assert len(parity) == 700
    assert len(np.unique(pixel_hash(parity))) == 700


@pytest.mark.parametrize(("task", "name"), [("emotion", "emotions"), ("keypoints", "points")])
def test_too_few_faces_are_an_error(
    emotion_run: Path, keypoint_run: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, task: str, name: str
) -> None:
    """Guards against calibration ranges and verdicts from a handful of faces."""
    monkeypatch.setattr(faces, "MIN_CALIBRATION_FACES", 5000)
    with pytest.raises(ExportError, match=r"faces of train .* at least 5000 .* --data"):
        crops_of(task, workspace / name)


def test_paths_are_cut_to_their_last_part() -> None:
    """Guards against a bundle that reveals where its data was stored; other text must not change."""
    training = {"data": "/home/a/b/fer2013", "out": "../runs/e1", "note": "mouth/nose 1/2", "n": [1, {"data": "x/y"}]}
    command = {"command": "facexp evaluate runs/e1 /data/fer/fer2013.csv --votes='/data/x.csv'"}
    assert _without_paths(training) == {
        "data": "fer2013",
        "out": "e1",
        "note": "mouth/nose 1/2",
        "n": [1, {"data": "y"}],
    }
    assert _without_paths(command) == {"command": "facexp evaluate runs/e1 fer2013.csv --votes='x.csv'"}
