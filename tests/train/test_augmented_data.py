"""An augmented dataset is the original with changed copies of its training faces: points follow pixels, no leaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

import drawn
from facexp.geometry import KEYPOINTS
from facexp_train.augmentation.changes import CHANGES, draw_change
from facexp_train.augmented_data import augment
from facexp_train.data.emotion_data import EmotionFaces, read_emotion
from facexp_train.data.keypoint_data import KeypointFaces, read_keypoints
from facexp_train.data.splits import SPLITS
from facexp_train.data.votes import VOTES
from facexp_train.errors import DataError


def assert_only_training_copies_added(before: Any, after: Any) -> None:
    """Assert that the first faces are the original ones in their splits, and that all others are training faces."""
    count = len(before)
    assert np.array_equal(after.images[:count], before.images)
    assert after.split[:count].tolist() == before.split.tolist()
    assert set(after.split[count:]) == {"train"}


def dots(points: np.ndarray, size: int = 96) -> np.ndarray:
    """A picture that is dark at each point and nowhere else."""
    ys, xs = np.mgrid[:size, :size]
    image = np.full((size, size), 200.0)
    for x, y in points:
        image -= 120 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 8)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def spot_centre(image: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The centre (x, y) of the dark spot near a position."""
    ys, xs = np.mgrid[: image.shape[0], : image.shape[1]]
    around = (xs - near[0]) ** 2 + (ys - near[1]) ** 2 < 36
    weight = np.where(around, image.max() - image.astype(float), 0)
    return np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("name", CHANGES)
def test_points_move_with_the_pixels_that_they_mark(name: str) -> None:
    """Guards that points and pixels move together, and that a reflection swaps the names of left and right."""
    points = np.stack(np.meshgrid([24, 40, 56, 72, 36], [30, 48, 66]), axis=-1).reshape(15, 2).astype(np.float32)
    points[0], points[1] = [64, 40], [32, 38]  # left and right eye
    image = dots(points)
    change = draw_change(name, 4, 96, seed=3)
    moved = change.points(np.repeat(points[None], 4, axis=0))
    for face in range(4):
        copy = change.image(image, face)
        assert not np.array_equal(copy, image)
        for point in moved[face, :2]:
            assert np.abs(spot_centre(copy, point) - point).max() < 0.7
        (left_x, left_y), (right_x, right_y) = moved[face, 0], moved[face, 1]
        if name == "flip":
            assert (left_x, left_y, right_x, right_y) == (95 - 32, 38, 95 - 64, 40)
            assert np.array_equal(copy, image[:, ::-1])
        elif name == "vertical-flip":
            assert (left_x, left_y, right_x, right_y) == (32, 95 - 38, 64, 95 - 40)
            assert np.array_equal(copy, image[::-1])
        else:
            assert left_x > right_x
    brightness = np.array([change.image(image, face).mean() for face in range(4)])
    if name in ("brighter", "darker"):
        assert ((brightness > image.mean()) == (name == "brighter")).all()
        assert np.array_equal(moved[0], points)
        assert len(set(brightness)) == 4


def test_kaggles_file_is_augmented(tmp_path: Path) -> None:
    """Guards rows, columns and splits of training.csv, missing points, and that the same seed gives the same bytes."""
    path, names = tmp_path / "training.csv", ["flip", "brighter", "rotated"]
    drawn.write_training(path, 20)
    before = read_keypoints(path, quiet=True)
    made = augment(path, tmp_path / "more", names, seed=5, quiet=True)
    assert made.path == tmp_path / "more" / "training.csv"
    train_count = int((before.split == "train").sum())
    assert (made.faces, made.copies) == (20, train_count * len(names))
    after = read_keypoints(made.path, quiet=True)
    assert isinstance(after, KeypointFaces)
    assert len(after) == 20 + made.copies
    assert_only_training_copies_added(before, after)
    assert np.array_equal(after.points[:20], before.points, equal_nan=True)
    assert after.group[20:].tolist() == before.group[before.split == "train"].tolist() * len(names)
    # the file's columns, unchanged, and two more
    old, new = (pd.read_csv(file, dtype=str, keep_default_na=False) for file in (path, made.path))
    assert [*new.columns] == [*old.columns, "split", "group"]
    pd.testing.assert_frame_equal(new.iloc[:20, : len(old.columns)], old)
    assert (
        np.isnan(after.points).any(axis=(1, 2)).sum()
        == np.isnan(before.points).any(axis=(1, 2)).sum()
        + len(names) * np.isnan(before.part("train").points).any(axis=(1, 2)).sum()
    )
    again = augment(path, tmp_path / "again", names, seed=5, quiet=True)
    assert again.path.read_bytes() == made.path.read_bytes()
    other = read_keypoints(augment(path, tmp_path / "other", ["rotated"], seed=6, quiet=True).path, quiet=True)
    part = read_keypoints(augment(path, tmp_path / "part", ["rotated"], seed=5, quiet=True).path, quiet=True)
    start = 20 + names.index("rotated") * train_count
    assert np.array_equal(part.images[20:], after.images[start : start + train_count])
    assert not np.array_equal(part.images[20:], other.images[20:])
    record = json.loads((tmp_path / "part" / "augmentation.json").read_text())
    assert (record["seed"], record["changes"], record["copies"]) == (5, ["rotated"], train_count)
    assert cv2.imread(str(tmp_path / "part" / "augmentation.png")) is not None


def test_fer2013_is_augmented(tmp_path: Path) -> None:
    """Guards Usage and votes, and against changed copies of test faces in training, which no reader could recognise."""
    drawn.write_fer2013(tmp_path / "fer2013.csv", 20, 5, seed=7)  # no two of these are copies
    table = pd.read_csv(tmp_path / "fer2013.csv")
    table.loc[3, "pixels"] = table.loc[27, "pixels"]  # row 4 is a test face
    table.loc[5, "pixels"] = " ".join(["9"] * 2304)  # row 6 is flat
    table.to_csv(tmp_path / "fer2013.csv", index=False)
    ballots = pd.DataFrame(np.eye(10, dtype=int)[np.arange(30) % 8] * 10, columns=VOTES).assign(Usage=table["Usage"])
    ballots.to_csv(tmp_path / "fer2013new.csv", index=False)
    before = read_emotion(tmp_path / "fer2013.csv", whole=True, quiet=True)
    made = augment(tmp_path, tmp_path / "more", quiet=True)
    assert (made.faces, made.copies) == (30, 18 * len(CHANGES))
    after = read_emotion(made.path, whole=True, quiet=True)
    assert_only_training_copies_added(before, after)
    augmented = np.array([row not in (3, 5) for row in range(20)])
    assert after.labels[30:].tolist() == before.labels[:20][augmented].tolist() * len(CHANGES)
    assert after.votes is not None
    assert before.votes is not None
    assert np.array_equal(after.votes[30:], np.tile(before.votes[:20][augmented], (len(CHANGES), 1)))
    trained = read_emotion(made.path, quiet=True)
    assert (trained.report.copies, trained.report.near_copies, trained.report.flat) == (1, 0, 1)
    assert len(trained.part("train")) == 18 * (1 + len(CHANGES))
    assert [*pd.read_csv(made.path, nrows=1).columns] == ["emotion", "pixels", "Usage", "group"]


def test_augmenting_reads_csv_files_like_training(tmp_path: Path) -> None:
    """Guards quotes after a space, and that both CSV readers count the same rows when a line holds only spaces."""
    drawn.write_fer2013(tmp_path / "plain.csv", 14, 4)
    lines = ['"' + line.replace(",", '", "') + '"' for line in (tmp_path / "plain.csv").read_text().splitlines()]
    lines.insert(3, "   ")
    (tmp_path / "fer2013.csv").write_text("\n".join([*lines, ""]))
    expected = read_emotion(augment(tmp_path / "plain.csv", tmp_path / "one", ["flip"], quiet=True).path, quiet=True)
    faces = read_emotion(augment(tmp_path / "fer2013.csv", tmp_path / "two", ["flip"], quiet=True).path, quiet=True)
    assert np.array_equal(faces.images, expected.images)
    assert faces.labels.tolist() == expected.labels.tolist()
    assert faces.split.tolist() == expected.split.tolist()
    # programs that read icml_face_data.csv expect the column " pixels", with its space
    spaced = (tmp_path / "plain.csv").read_text().replace("emotion,pixels,Usage", "emotion, pixels, Usage", 1)
    (tmp_path / "icml_face_data.csv").write_text(spaced)
    made = augment(tmp_path / "icml_face_data.csv", tmp_path / "three", ["flip"], quiet=True)
    assert [*pd.read_csv(made.path, nrows=1).columns] == ["emotion", " pixels", " Usage", "group"]


def test_the_five_class_set_keeps_its_codes_and_splits(tmp_path: Path) -> None:
    """Guards a file without splits: with copies added, it would be divided differently."""
    path = tmp_path / "emotion.csv"
    drawn.write_five(path, 40)
    before = read_emotion(path, quiet=True)
    made = augment(path, tmp_path / "more", ["rotated", "flip"], seed=2, quiet=True)
    after = read_emotion(made.path, quiet=True)
    assert isinstance(after, EmotionFaces)
    assert_only_training_copies_added(before, after)
    assert after.classes == before.classes
    assert [len(after.part(name)) for name in SPLITS] == [3 * len(before.part("train")), 4, 4]


def test_class_folders_are_augmented(tmp_path: Path) -> None:
    """Guards that images are copied unchanged, into the splits that the reader assigned, and custom labels."""
    # no two of these are copies
    drawn.write_folders(tmp_path / "own", {"calm": "neutral", "glad": "happy"}, 8, 4, seed=5)
    (tmp_path / "own" / "labels.toml").write_text('classes = ["calm", "glad"]\n')
    made = augment(tmp_path / "own", tmp_path / "more", ["darker"], quiet=True)
    assert made.path == tmp_path / "more"
    for file in (tmp_path / "own").rglob("*.png"):
        assert (made.path / file.relative_to(tmp_path / "own")).read_bytes() == file.read_bytes()
    before, after = (read_emotion(place, quiet=True) for place in (tmp_path / "own", made.path))
    assert after.classes == ("calm", "glad")
    assert len(after) == len(before) + 8
    copies = dict(zip(after.names.tolist(), after.images, strict=True))
    for name, image, split in zip(before.names.tolist(), before.images, before.split.tolist(), strict=True):
        assert (f"{name}.darker.png" in copies) == (split == "train")
        if split == "train":
            assert copies[f"{name}.darker.png"].mean() < 0.85 * image.mean()


def test_a_folder_with_labels_csv_is_augmented(tmp_path: Path) -> None:
    """Guards a copy's image and square: read back, it equals the changed canvas pixel for pixel."""
    folder = tmp_path / "faces"
    (folder / "images" / "a").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for number in range(6):
        image, points = drawn.face("happy", rng, 150)
        assert cv2.imwrite(str(folder / "images" / "a" / f"{number}.png"), image)
        cells = dict(zip([f"{n}_{a}" for n in KEYPOINTS for a in "xy"], points.ravel(), strict=True))
        split = "val" if number > 3 else "train"
        rows.append({"file": f"a/{number}.png", "split": split, "crop_x": 12, "crop_y": 10, "crop_side": 120, **cells})
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    before = read_keypoints(folder, quiet=True)
    made = augment(folder, tmp_path / "more", ["flip", "rotated"], seed=1, quiet=True)
    after = read_keypoints(made.path, quiet=True)
    assert_only_training_copies_added(before, after)
    for block, name in enumerate(("flip", "rotated")):
        change = draw_change(name, 6, before.images.shape[1], seed=1)
        expected = change.points(before.points)
        for face in range(4):
            row = 6 + 4 * block + face
            assert after.names[row] == f"a/{face}.png.{name}.png"
            assert np.array_equal(after.images[row], change.image(before.images[face], face))
            assert np.abs(after.points[row] - expected[face]).max() < 1e-3


def test_faces_of_one_photo_get_separate_copies(tmp_path: Path) -> None:
    """Guards a photo of two people, and a file that already has the name that a copy would get."""
    rng, halves, rows = np.random.default_rng(0), [], []
    for number in range(2):
        image, points = drawn.face("happy", rng, 150)
        halves.append(image)
        points += np.array([150 * number, 0])
        cells = dict(zip([f"{n}_{a}" for n in KEYPOINTS for a in "xy"], points.ravel(), strict=True))
        rows.append({"file": "two.png", "split": "train", "crop_x": 12 + 150 * number, "crop_y": 10, **cells})
    folder = tmp_path / "faces"
    folder.mkdir()
    assert cv2.imwrite(str(folder / "two.png"), np.hstack(halves))
    assert cv2.imwrite(str(folder / "two.png.flip.png"), halves[0])
    rows += [rows[0] | {"file": "two.png.flip.png", "split": split} for split in ("train", "val")]
    pd.DataFrame(rows).assign(crop_side=120).to_csv(folder / "labels.csv", index=False)
    before = read_keypoints(folder, quiet=True)
    after = read_keypoints(augment(folder, tmp_path / "more", ["flip"], quiet=True).path, quiet=True)
    assert_only_training_copies_added(before, after)
    change = draw_change("flip", 4, before.images.shape[1], seed=0)
    assert len(set(after.names[4:])) == 3
    for face in range(3):
        assert np.array_equal(after.images[4 + face], change.image(before.images[face], face))


def test_votes_that_belong_to_another_file_are_not_copied(tmp_path: Path) -> None:
    """Guards the five-class file with FER2013's votes next to it, and empty column names at the end of a header."""
    path = tmp_path / "emotion.csv"
    drawn.write_five(path, 40)
    path.write_text("\n".join(f"{line},," for line in path.read_text().splitlines()) + "\n")
    (tmp_path / "fer2013new.csv").write_text("Usage,Image name," + ",".join(VOTES) + "\n")
    before = read_emotion(path, quiet=True)
    made = augment(path, tmp_path / "more", ["flip"], quiet=True)
    assert_only_training_copies_added(before, read_emotion(made.path, quiet=True))
    assert not (tmp_path / "more" / "fer2013new.csv").exists()


def test_a_refused_or_failed_augmentation_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards an output folder that is not empty, an unknown change, and a full disk."""
    path = tmp_path / "training.csv"
    drawn.write_training(path, 12)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(DataError, match="is not empty"):
        augment(path, tmp_path / "full", quiet=True)
    with pytest.raises(DataError, match="no change is named turned; expected some of flip, vertical-flip"):
        augment(path, tmp_path / "new", ["turned"], quiet=True)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("facexp_train.augmented_data.draw_rows", full)
    with pytest.raises(OSError, match="No space"):
        augment(path, tmp_path / "new", ["flip"], quiet=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["full", "training.csv"]
