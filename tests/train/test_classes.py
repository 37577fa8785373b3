"""Data with its own labels: a small file next to the data says what they mean, and no label is misread."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from facexp.labels import SEVEN
from facexp_train.data.emotion_data import EmotionFaces, read_emotion, truths
from facexp_train.errors import DataError
from facexp_train.run import configure, start


def pictures(count: int) -> np.ndarray:
    coarse = np.random.default_rng(3).integers(0, 256, (count, 6, 6)).astype(np.uint8)
    return np.array([cv2.resize(image, (48, 48), interpolation=cv2.INTER_CUBIC) for image in coarse])


def table(path: Path, texts: Sequence[str]) -> Path:
    rows = [
        f"{text},{' '.join(map(str, image.ravel()))}" for text, image in zip(texts, pictures(len(texts)), strict=True)
    ]
    path.write_text("\n".join(["emotion,pixels", *rows]) + "\n")
    return path


def folders(path: Path, names: Sequence[str], each: int = 4) -> Path:
    images = iter(pictures(each * len(names)))
    for name in names:
        (path / name).mkdir(parents=True)
        for number in range(each):
            assert cv2.imwrite(str(path / name / f"{number}.png"), next(images))
    return path


read = partial(read_emotion, quiet=True)


def class_names(faces: EmotionFaces) -> list[str]:
    return [faces.classes[code] for code in faces.labels]


def test_other_names_map_to_the_seven_classes(tmp_path: Path) -> None:
    """Guards folders with other names: mapped, in any letter case, or left out; the seven classes keep their order."""
    data = folders(tmp_path / "faces", ["Joy", "RAGE", "contempt", "neutral", "sadness"])
    (data / "labels.toml").write_text('leave_out = ["Contempt"]\n[names]\njoy = "happy"\nrage = "angry"\n')
    faces = read(data)
    assert faces.classes == SEVEN
    assert faces.labelling == "fer2013"
    assert class_names(faces) == ["happy"] * 4 + ["angry"] * 4 + ["neutral"] * 4 + ["sad"] * 4
    assert (faces.report.rows, faces.report.left_out) == (20, 4)


def test_accents_are_compared_in_either_form(tmp_path: Path) -> None:
    """Guards folders from macOS, whose accents are characters of their own: no editor shows the difference."""
    name = "d\u00e9go\u00fbt"
    data = folders(tmp_path / "faces", [unicodedata.normalize("NFD", name), "joie"])
    (data / "labels.toml").write_text(f'classes = ["{name}", "joie"]\n', encoding="utf-8")
    assert class_names(read(data)) == [name] * 4 + ["joie"] * 4


def test_custom_classes_replace_the_seven(tmp_path: Path) -> None:
    """Guards a CSV file of codes and words with a custom class list: codes in its order, under the head `own`."""
    data = table(tmp_path / "drivers.csv", ["0", "1", "0", "Yawning", "2", "0", "1", "1", "0", "1"])
    labels = tmp_path / "drivers.labels.toml"
    labels.write_text(
        'classes = ["tired", "awake"]\nleave_out = ["2"]\n[names]\n0 = "awake"\n1 = "tired"\nyawning = "tired"\n'
    )
    faces = read(data)
    assert faces.classes == ("tired", "awake")
    assert class_names(faces) == ["awake", "tired", "awake", "tired", "awake", "tired", "tired", "awake", "tired"]
    assert list(truths(faces)) == ["own"]
    # the table is cached, but not what its labels mean
    labels.write_text('classes = ["left", "right"]\n[names]\n0 = "left"\n1 = "right"\n2 = "right"\nyawning = "right"\n')
    assert class_names(read(data))[:5] == ["left", "right", "left", "right", "right"]


def test_a_configuration_selects_classes(tmp_path: Path) -> None:
    """Guards a configuration's `classes`: faces of other classes are left out, and the codes follow its order."""
    faces = read(table(tmp_path / "f.csv", ["0", "6", "3", "1", "6", "3"] * 2))
    chosen = faces.of(["happy", "angry"])
    assert class_names(chosen) == ["angry", "happy", "happy"] * 2
    assert chosen.labels[:3].tolist() == [1, 0, 0]
    assert chosen.rows.tolist() == [1, 3, 6, 7, 9, 12]
    with pytest.raises(DataError, match=r"these faces are of angry, disgust, .* none is of tired, awake"):
        faces.of(["tired", "awake"])


def test_a_class_without_a_training_face_is_named(tmp_path: Path) -> None:
    """Guards against a typing error in `classes`, which would train an output without faces."""
    data = table(tmp_path / "f.csv", [str(code) for code in range(7)] * 4)
    config = configure("emotion", str(data), changes=['classes=["happy", "said"]'])
    with pytest.raises(DataError, match=r"f.csv: no training face is said, one of the configuration's classes"):
        start(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_standard_class_without_faces_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards command.txt of a run on a file without disgust: it names all classes, and must repeat the run."""
    data = table(tmp_path / "f.csv", [str(code) for code in (0, 2, 3, 6)] * 6)
    made: list[list[str]] = []
    monkeypatch.setattr("facexp_train.run._train", lambda _, config, *more: made.append(config.classes))
    start(configure("emotion", str(data)), tmp_path / "run", quiet=True)
    start(configure("emotion", str(data), changes=[f"classes={json.dumps(made[0])}"]), tmp_path / "run", quiet=True)
    assert made == [list(SEVEN)] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes = [", "cannot be read as TOML"),
        ('names = "happy"', "names must be a table"),
        ('class = ["a", "b"]', "class is unknown; expected classes, names, leave_out"),
        ('classes = ["a"]', "classes must be two or more"),
        ('classes = ["a", "A"]', "classes must be a list of different names"),
        ('classes = ["a", 1]', "classes must be a list of different names"),
        ('classes = ["a", "b"]\n[names]\nc = "d"', "names.c must be one of a, b, got 'd'"),
        ('leave_out = "neutral"', "leave_out must be a list of strings"),
    ],
)
def test_a_wrong_labels_file_gives_a_one_line_message(tmp_path: Path, text: str, message: str) -> None:
    """Guards the message: the file, the key, and what was expected there."""
    data = folders(tmp_path / "faces", ["a", "b"])
    (data / "labels.toml").write_text(text)
    with pytest.raises(DataError) as error:
        read(data)
    assert str(error.value).startswith(f"{data / 'labels.toml'}: {message}")
    assert "\n" not in str(error.value)


def test_a_label_without_a_meaning_is_named(tmp_path: Path) -> None:
    """Guards against silently dropping faces with an undefined label, or assigning them to another class."""
    data = folders(tmp_path / "faces", ["happy", "bored"])
    with pytest.raises(DataError, match=r"bored: expected a folder named after one of angry, .*labels.toml can say"):
        read(data)
    cells = table(tmp_path / "f.csv", ["a", "b", "c"])
    (tmp_path / "f.labels.toml").write_text('classes = ["a", "b"]')
    with pytest.raises(DataError, match=r"f.csv: row 3, column emotion: expected one of a, b, found 'c'"):
        read(cells)
