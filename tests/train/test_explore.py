"""Faults planted in a dataset are found in their rows, and nowhere else."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

import drawn
from facexp.geometry import KEYPOINTS, MIRROR
from facexp_train.data.keypoint_data import COORDINATES
from facexp_train.data.votes import VOTES
from facexp_train.errors import DataError
from facexp_train.exploration import figures, shapes
from facexp_train.exploration.explore import Exploration, explore
from facexp_train.exploration.findings import MAX_SHAPE_DISTANCE, find
from facexp_train.exploration.survey import survey, task_of
from facexp_train.reporting import sheets


def texts(images: Sequence[np.ndarray]) -> list[str]:
    return [" ".join(map(str, image.ravel())) for image in images]


def write_keypoints(path: Path, images: Sequence[np.ndarray], points: Sequence[np.ndarray]) -> Path:
    frame = pd.DataFrame(np.array(points).reshape(len(points), 30), columns=list(COORDINATES))
    frame.assign(Image=texts(images)).to_csv(path, index=False)
    return path


def findings_by_kind(path: Path) -> dict[str, list[int]]:
    """The sorted row numbers of each kind of finding."""
    faces = survey(path, quiet=True)
    return {finding.kind: sorted(int(faces.rows[face]) for face in finding.faces) for finding in find(faces)}


def spotted(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Add different spots to drawn faces: without, all are one drawing, moved and stretched, and count as copies."""
    rng = np.random.default_rng(1)
    spots = [cv2.resize(rng.normal(0, 30, (12, 12)).astype(np.float32), image.shape) for image in images]
    return [np.clip(image + spot, 0, 255).astype(np.uint8) for image, spot in zip(images, spots, strict=True)]


def read_findings(folder: Path) -> list[dict[str, str]]:
    with (folder / "findings.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_task_is_detected_from_the_data(tmp_path: Path) -> None:
    """Guards the commands that are given data without a task, such as `facexp verify --data`."""
    for name, header, task in (
        ("training.csv", "left_eye_center_x,left_eye_center_y,Image", "keypoints"),
        ("fer2013.csv", "emotion,pixels,Usage", "emotion"),
    ):
        (tmp_path / name).write_text(f"{header}\n")
        assert task_of(tmp_path / name) == task
    assert task_of(tmp_path) == "emotion"
    # a folder has keypoints only if its labels.csv has a column of them
    for column, task in (("emotion", "emotion"), (COORDINATES[3], "keypoints")):
        (tmp_path / "labels.csv").write_text(f"file,{column}\n0.png,3\n")
        assert task_of(tmp_path) == task


def test_every_kind_of_finding_in_keypoint_data(tmp_path: Path) -> None:
    """Guards each kind of finding in its row, and that sound faces are not reported."""
    rng = np.random.default_rng(0)
    images, points = map(list, zip(*(drawn.face("neutral", rng) for _ in range(120)), strict=True))
    images = spotted(images)
    mirrored = np.array([95, 0]) + points[11][list(MIRROR)] * [-1, 1]
    images[3] = np.full_like(images[3], 90)  # flat, row 4
    images[5], points[5] = images[4], points[4] + [6, 0]  # row 6 contradicts row 5
    points[7] = points[7][list(MIRROR)]  # row 8: sides swapped
    images[9], points[9] = images[9][::-1, ::-1], 95 - points[9]  # row 10: head down
    images[12], points[12] = images[11][:, ::-1], mirrored  # row 13 is row 12, mirrored
    points[13] = points[13].copy()
    points[13][KEYPOINTS.index("nose_tip")] += [14, -10]  # row 14: a wrong nose
    points[15] = np.full((15, 2), np.nan)  # row 16
    points[17] = points[17].copy()
    points[17][KEYPOINTS.index("mouth_center_bottom_lip")] = [48, 99]  # row 18: below the image
    kinds = findings_by_kind(write_keypoints(tmp_path / "training.csv", images, points))
    assert kinds.pop("odd shape")[:2] == [8, 14]  # with a lip outside the image, row 18 may be odd as well
    assert kinds == {
        "contradiction": [5, 6],
        "copy": [6],
        "near copy": [13],
        "flat": [4],
        "no point": [16],
        "swapped sides": [8],
        "upside down": [10],
        "outside": [18],
    }


def test_every_kind_of_finding_in_emotion_data(tmp_path: Path) -> None:
    """Guards copies across splits, contradictions, flat faces and disagreement with FER+'s votes, each in its row."""
    rng = np.random.default_rng(0)
    names = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    codes = [number % 7 for number in range(42)]
    usages = ["Training"] * 28 + ["PublicTest"] * 7 + ["PrivateTest"] * 7
    images = spotted([drawn.face(names[code], rng, 48)[0] for code in codes])
    images[2] = images[36]  # row 3 is row 37, a test face with another label
    images[9] = images[8][:, ::-1]  # row 10 is row 9 mirrored, with another label
    images[12] = np.full((48, 48), 7)  # row 13
    images[14] = np.full((48, 48), 100)
    images[14][20:24] += 4  # row 15, faint
    path = tmp_path / "fer2013.csv"
    # groups are people, whose pictures are not copies of each other
    people = [f"person {number % 5}" for number in range(42)]
    table = pd.DataFrame({"emotion": codes, "pixels": texts(images), "Usage": usages, "group": people})
    table.to_csv(path, index=False)
    order = [VOTES.index(name) for name in ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")]
    votes = np.zeros((42, 10), int)
    votes[np.arange(42), np.array(order)[codes]] = 10
    votes[20] = [0] * 9 + [10]  # row 21: no face
    votes[21] = [4, 6, *[0] * 8]  # row 22: voted happy, labelled angry
    votes[23] = [5, 5, *[0] * 8]  # a tie
    pd.DataFrame(votes, columns=VOTES).assign(Usage=usages).to_csv(tmp_path / "fer2013new.csv", index=False)
    assert findings_by_kind(path) == {
        "contradiction": [3, 37],
        "near contradiction": [9, 10],
        "leak": [3],
        "copy": [37],
        "near copy": [10],
        "flat": [13],
        "faint": [15],
        "voted no face": [21],
        "outvoted": [22],
    }
    done = explore(path, tmp_path / "report", quiet=True)
    assert "Few test faces of angry (1), disgust (1)" in " ".join(done.warnings)
    (leak,) = (warning for warning in done.warnings if warning.startswith("Training faces that show"))
    assert "1 (row 3)" in leak
    # photos of one person in a studio resemble each other as copies do, and must not be thrown away
    (near,) = (warning for warning in done.warnings if "(rows 9, 10)" in warning)
    assert near.endswith("keep different photos of one person.")
    details = {(line["row"], line["finding"]): line["detail"] for line in read_findings(tmp_path / "report")}
    assert details["3", "leak"] == "test row 37"
    # no judge was given, which does not mean that onnxruntime is missing
    assert "was not checked" in done.page.read_text()
    assert "not installed" not in done.page.read_text()
    assert details["22", "outvoted"] == "angry, voted happy"


def test_the_report_is_complete(tmp_path: Path) -> None:
    """Guards the page, its files and the numbers; and that the networks check every picture exactly once."""
    path = tmp_path / "training.csv"
    drawn.write_training(path, 30)
    judged: list[np.ndarray] = []

    def judge(pictures: list[np.ndarray]) -> np.ndarray:
        judged.extend(pictures)
        return np.array([number != 4 for number in range(len(pictures))])

    out = tmp_path / "report"
    done = explore(path, out, judge=judge, quiet=True)
    assert isinstance(done, Exploration)
    assert len(judged) == 30
    faces = survey(path, quiet=True)
    assert np.array_equal(np.stack(judged), faces.images)
    assert done.page == out / "index.html"
    text = done.page.read_text()
    pictures = sorted(file.name for file in out.glob("*.png"))
    assert text.count("data:image/webp") == len(pictures)
    assert {"classes.png", "samples.png", "missing.png", "mean_shape.png", "scatter.png", "light.png"} <= set(pictures)
    numbers = json.loads((out / "numbers.json").read_text())
    assert numbers["faces"] == 30
    assert sum(numbers["splits"].values()) == 30
    assert numbers["findings"]["no face seen"] == 1
    assert [line["row"] for line in read_findings(out) if line["finding"] == "no face seen"] == ["5"]
    with (out / "points.csv").open(newline="") as file:
        table = {line["point"]: line for line in csv.DictReader(file)}
    incomplete = np.isnan(faces.points).any(axis=2).sum(axis=0)  # type: ignore[arg-type]
    assert [int(table[name]["missing"]) for name in KEYPOINTS] == incomplete.tolist()
    assert incomplete.sum() == 3
    assert float(table["nose_tip"]["mean y px"]) == pytest.approx(faces.points[:, 10, 1].mean(), abs=1e-3)  # type: ignore[index]
    assert all(warning in done.summary for warning in done.warnings)


def test_findings_in_folders_name_the_image_files(tmp_path: Path) -> None:
    """Guards that a finding in a folder of images names the image, and that custom classes are counted."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name, emotion in (("calm", "neutral"), ("glad", "happy")):
            folder = tmp_path / "own" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                assert cv2.imwrite(str(folder / f"{number}.png"), drawn.face(emotion, rng, 48)[0])
    (tmp_path / "own" / "labels.toml").write_text('classes = ["calm", "glad"]\n')
    copy = (tmp_path / "own" / "val" / "calm" / "1.png").read_bytes()
    (tmp_path / "own" / "train" / "glad" / "2.png").write_bytes(copy)
    done = explore(tmp_path / "own", tmp_path / "report", quiet=True)
    assert any("Training faces" in text and "(row train/glad/2.png)" in text for text in done.warnings)
    assert "There are no test faces." in done.warnings
    with (tmp_path / "report" / "classes.csv").open(newline="") as file:
        assert {line["class"]: line["train"] for line in csv.DictReader(file)} == {"calm": "3", "glad": "3", "all": "6"}


def test_captions_name_the_image_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the sheets of a folder: files whose names begin and end alike can be told apart, also the file copied."""
    folder = tmp_path / "own" / "happy"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pictures = [drawn.face("happy", rng, 48)[0] for _ in range(3)]
    for number, picture in enumerate([*pictures, pictures[1]]):
        assert cv2.imwrite(str(folder / f"lab_subject0{number}_happy.png"), picture)
    captions: list[Sequence[str]] = []
    real = sheets.draw_sheet

    def sheet(cells: Sequence[sheets.Cell], *more: Any, **others: Any) -> None:
        captions.extend(cell.caption for cell in cells)
        real(cells, *more, **others)

    monkeypatch.setattr(figures, "draw_sheet", sheet)
    explore(tmp_path / "own", tmp_path / "report", quiet=True)
    assert ["lab_subject03_happy.png", "of row", "lab_subject01_happy.png"] in captions


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    """Guards the one-line message about a table that is no dataset."""
    path = tmp_path / "cars.csv"
    path.write_text("maker,wheels\nfiat,4\n")
    with pytest.raises(DataError, match=r"neither a column emotion .* nor Image .* found maker, wheels"):
        task_of(path)


def test_shapes_are_compared_at_any_position_and_with_missing_points() -> None:
    """Guards the Procrustes fit with missing points: a rotated small face is normal, one wrong point of five is not."""
    rng = np.random.default_rng(0)
    mean = rng.uniform(20, 76, (15, 2))
    points = (mean + rng.normal(0, 1, (200, 15, 2))).astype(np.float32)
    points[0] = 0.5 * points[0] @ np.array([[0, 1], [-1, 0]]) + [60, 10]
    points[1:3, 5:] = np.nan
    points[2, 0] += [15, 0]
    points[3, 2:] = np.nan
    distances = shapes.shape_distances(points)
    assert distances[[0, 1]].max() < 2
    assert distances[2] > MAX_SHAPE_DISTANCE
    assert np.isnan(distances[3])
    assert np.median(distances[4:]) == pytest.approx(1, abs=0.2)
    assert np.isnan(shapes.shape_distances(points[4:40])).all()
