"""Emotion faces in a folder for each class: names, splits, colours, sizes, and folders that are no dataset."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from drawn import smooth
from facexp.labels import SEVEN
from facexp_train.data.emotion_data import read_emotion
from facexp_train.errors import DataError

read = partial(read_emotion, quiet=True)


def save(file: Path, image: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), image)


def test_class_folders_are_read(tmp_path: Path) -> None:
    """Guards names in any case and their synonyms, colour and other sizes, and other files in the folders."""
    folders = ["Anger", "disgusted", "FEARFUL", "happiness", "sadness", "Surprised", "neutral"]
    images = smooth(7)
    for name, image in zip(folders, images, strict=True):
        save(tmp_path / "faces" / name / "a.png", image)
        (tmp_path / "faces" / name / "Thumbs.db").write_bytes(b"x")
        # macOS writes such a file next to each file
        (tmp_path / "faces" / name / "._a.png").write_bytes(b"x")
    (tmp_path / "faces" / ".cache").mkdir()
    (tmp_path / "faces" / "__MACOSX" / "anger").mkdir(parents=True)
    save(tmp_path / "faces" / "neutral" / "b.PNG", cv2.resize(smooth(1, seed=1)[0], (96, 64)))
    save(tmp_path / "faces" / "neutral" / "c.jpg", cv2.cvtColor(smooth(1, seed=2)[0], cv2.COLOR_GRAY2BGR))
    faces = read(tmp_path / "faces")
    assert faces.images.shape == (9, 48, 48)
    for code, image in enumerate(images):
        index = int(np.flatnonzero(faces.labels == code)[0])
        assert np.array_equal(faces.images[index], image)
    assert (faces.labels == 6).sum() == 3
    assert set(faces.split) == {"train", "val", "test"}
    assert faces.votes is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "test"), {"train": 9, "val": 1, "test": 3}),
        (("Training", "PublicTest", "PrivateTest"), {"train": 10, "val": 3, "test": 3}),
        (("train", "validation"), {"train": 10, "val": 3, "test": 0}),
    ],
)
def test_split_folders_are_kept(tmp_path: Path, names: tuple[str, ...], expected: dict[str, int]) -> None:
    """Guards FER2013 as folders: splits are kept, and validation faces are taken from training if there are none."""
    for seed, name in enumerate(names):
        for index, image in enumerate(smooth(3 if seed else 10, seed=seed)):
            save(tmp_path / "faces" / name / ("angry" if index % 2 else "happy") / f"{index}.png", image)
    faces = read(tmp_path / "faces")
    assert {split: len(faces.part(split)) for split in expected} == expected


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    """Guards each message about a folder that is not a dataset."""
    folder = tmp_path / "faces"
    folder.mkdir()

    def message(**options: Any) -> str:
        with pytest.raises(DataError) as error:
            read(folder, **options)
        return str(error.value).replace(f"{tmp_path}{os.sep}", "")

    assert message().startswith("faces: no folders in it; expected fer2013.csv or icml_face_data.csv, or a folder of")
    (folder / "happy").mkdir()
    assert message().startswith("faces: no images in its class folders; expected .bmp, .jpeg")
    (folder / "happy" / "a.png").write_bytes(b"no picture")
    assert message() == "faces/happy/a.png: expected an image, but OpenCV cannot decode it"
    (folder / "bored").mkdir()
    assert message().startswith(
        f"faces/bored: expected a folder named after one of {', '.join(SEVEN)}; faces/labels.toml"
    )
    assert message(votes="v.csv").startswith("v.csv: votes belong to FER2013's CSV file")
