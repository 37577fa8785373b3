"""Emotion faces: every format that people download, FER+'s votes, and training faces that are copies of test faces."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

import drawn
from drawn import smooth
from facexp.labels import SEVEN
from facexp_train.data.copies import near_copies
from facexp_train.data.emotion_data import EmotionFaces, EmotionReport, read_emotion
from facexp_train.data.keypoint_data import read_keypoints
from facexp_train.data.splits import pixel_hash
from facexp_train.data.votes import VOTES
from facexp_train.errors import DataError

USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}


def write_csv(path: Path, header: str, images: np.ndarray, codes: Sequence[int], splits: Sequence[str] = ()) -> Path:
    """Write a CSV file with its columns in the order of the header."""
    lines = [header]
    for index, image in enumerate(images):
        cells = {"emotion": str(codes[index]), "pixels": " ".join(map(str, image.ravel()))}
        cells["Usage"] = USAGES[splits[index]] if splits else ""
        lines.append(",".join(cells[name.strip()] for name in header.split(",")))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_votes(path: Path, votes: np.ndarray, splits: Sequence[str]) -> Path:
    lines = ["Usage,Image name," + ",".join(VOTES)]
    for index, row in enumerate(votes):
        lines.append(f"{USAGES[splits[index]]},fer{index:07d}.png," + ",".join(map(str, row)))
    path.write_text("\n".join(lines) + "\n")
    return path


read = partial(read_emotion, quiet=True)


@pytest.mark.parametrize(
    "header",
    ["emotion,pixels,Usage", "emotion, Usage, pixels", "Usage,emotion,pixels"],
    ids=["fer2013", "icml_face_data", "another order"],
)
def test_fer2013_is_read(tmp_path: Path, header: str) -> None:
    """Guards FER2013's two files: pixels, codes, the official split, and the same result from the cache."""
    images, codes, names = smooth(7), [0, 1, 2, 3, 4, 5, 6], ["train", "val", "test", "train", "val", "test", "train"]
    path = write_csv(tmp_path / "fer2013.csv", header, images, codes, names)
    for _ in range(2):
        faces = read(path)
        assert np.array_equal(faces.images, images)
        assert faces.images.dtype == np.uint8
        assert faces.labels.tolist() == codes
        assert faces.labels.dtype == np.int64
        assert faces.split.tolist() == names
        assert faces.rows.tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert faces.votes is None
        assert faces.report == EmotionReport(rows=7, copies=0, near_copies=0, flat=0)
    part = faces.part("val")
    assert len(part) == 2
    assert part.rows.tolist() == [2, 5]
    assert part.labels.tolist() == [1, 4]
    assert np.array_equal(part.images, images[[1, 4]])
    with pytest.raises(ValueError, match="'public'"):
        faces.part("public")


def test_a_files_own_splits_and_groups_are_kept(tmp_path: Path) -> None:
    """Guards that `split` and `group` are used, that the codes are still those of the five classes, and a wrong split.

    No group is in two splits; a group of one person is not taken for copies; any copy of a test face is dropped.
    """
    images, names = smooth(6), ["train", "val", "test", "train", "train", "train"]
    images[3] = images[1]
    images[4] = np.clip(images[2].astype(float) * 0.7 + 40, 0, 255)
    path = write_csv(tmp_path / "emotion.csv", "emotion, pixels", images, [0, 1, 2, 3, 4, 3])
    lines = path.read_text().splitlines()
    more = ["split,group"] + [f"{name},g{index // 2}" for index, name in enumerate(names)]
    path.write_text("\n".join(f"{line},{cells}" for line, cells in zip(lines, more, strict=True)) + "\n")
    faces = read(path, whole=True)
    assert faces.split.tolist() == names
    assert faces.group.tolist() == ["g0", "g0", "g1", "g1", "g2", "g2"]
    assert faces.classes[faces.labels[3]] == "happy"
    assert faces.copies[4] == faces.copies[2] != faces.copies[5]
    assert faces.report == EmotionReport(rows=6, copies=1, near_copies=2, flat=0)
    assert read(path).rows.tolist() == [2, 3, 6]
    text = path.read_text()
    path.write_text(text.replace("test,g1", "test,"))
    with pytest.raises(DataError, match="row 3, column group: expected a name, found an empty field"):
        read(path)
    path.write_text(text)
    path.write_text(path.read_text().replace("train,g2", "other,g2"))
    with pytest.raises(DataError, match="row 5, column split: expected one of train, val, test, found 'other'"):
        read(path)


def test_the_five_class_set_is_distinguished_from_a_seven_class_file(tmp_path: Path) -> None:
    """Guards that the five-class set keeps its own codes, and that these map to those of the seven classes."""
    images = smooth(20)
    five = read(write_csv(tmp_path / "emotion.csv", "emotion, pixels", images, [0, 1, 2, 3, 4] * 4))
    assert five.classes == ("angry", "disgust", "sad", "happy", "surprise")
    assert five.labels[:5].tolist() == [0, 1, 2, 3, 4]
    assert [SEVEN[code] for code in five.of(SEVEN).labels[:5]] == ["angry", "disgust", "sad", "happy", "surprise"]
    seven = read(write_csv(tmp_path / "seven.csv", "emotion,pixels", images, [0, 1, 2, 3, 6] * 4))
    assert seven.labels[:5].tolist() == [0, 1, 2, 3, 6]


def test_without_usage_copies_share_a_split(tmp_path: Path) -> None:
    """Guards the split by pixels: 80/10/10, copies of every kind together, the same for the same seed."""
    images = smooth(100)
    bright = np.clip(images.astype(float) * 0.7 + 40, 0, 255).astype(np.uint8)
    images = np.concatenate([images, images, bright, images[:, :, ::-1]])
    path = write_csv(tmp_path / "emotion.csv", "emotion,pixels", images, [0] * 400)
    faces = read(path)
    assert len(faces) == 400
    assert faces.report == EmotionReport(400, 0, 0, 0)
    splits = faces.split.reshape(4, 100)
    assert (splits == splits[0]).all()
    assert [len(faces.part(name)) for name in ("train", "val", "test")] == [320, 40, 40]
    assert np.array_equal(read(path).split, faces.split)
    assert not np.array_equal(read(path, seed=1).split, faces.split)


def test_training_copies_of_held_out_faces_are_left_out(tmp_path: Path) -> None:
    """Guards what is dropped and counted: exact and near copies, their copies, flat faces; all from training only."""
    images = smooth(13)
    images[3] = images[10]  # pixel copy of a test face
    images[4] = np.clip(images[11].astype(float) * 0.7 + 40, 0, 255)  # near copy of a test face
    images[5] = images[4]
    images[6] = images[9][:, ::-1]  # a validation face, mirrored
    images[7] = images[12] = 128  # flat
    images[1] = images[2]  # copies inside training stay
    images[8] = images[11]  # copies between validation and test stay
    names = ["train"] * 8 + ["val"] * 2 + ["test"] * 3
    faces = read(write_csv(tmp_path / "fer2013.csv", "emotion,pixels,Usage", images, [4] * 13, names))
    assert faces.rows.tolist() == [1, 2, 3, 9, 10, 11, 12, 13]
    assert faces.labels.tolist() == [4] * 8  # a Usage column means FER2013, however low the codes
    assert faces.report == EmotionReport(rows=13, copies=1, near_copies=3, flat=1)
    assert faces.part("train").report == faces.report


def test_validation_faces_are_taken_from_training_when_a_file_has_none(tmp_path: Path) -> None:
    """Guards that a file with only Training and PrivateTest still has faces to choose the best epoch by."""
    names = ["train"] * 50 + ["test"] * 10
    faces = read(write_csv(tmp_path / "f.csv", "emotion,pixels,Usage", smooth(60), [0] * 60, names))
    assert [len(faces.part(name)) for name in ("train", "val", "test")] == [45, 5, 10]
    assert (faces.split[50:] == "test").all()


BALLOTS = np.random.default_rng(0).multinomial(10, [0.1] * 10, 9)
"""Ten votes for each of nine faces."""


@pytest.fixture
def voted(tmp_path: Path) -> EmotionFaces:
    names = ["train", "val", "test"] * 3
    path = write_csv(tmp_path / "fer2013.csv", "emotion,pixels,Usage", smooth(9), [3] * 9, names)
    write_votes(tmp_path / "fer2013new.csv", BALLOTS, names)
    return read(path)


def test_votes_stay_with_their_faces(voted: EmotionFaces) -> None:
    """Guards that votes are found next to the file, row by row, and stay with their faces in a split."""
    assert np.array_equal(voted.votes, BALLOTS)
    assert voted.votes.dtype == np.float32
    assert np.array_equal(voted.part("val").votes, BALLOTS[1::3])


def test_each_vote_column_maps_to_its_emotion(tmp_path: Path) -> None:
    """Guards the order of FER+'s columns against FER2013's codes, one column at a time, also when they are shuffled."""
    images, names = smooth(10), ["train"] * 8 + ["val", "test"]
    path = write_csv(tmp_path / "f.csv", "emotion,pixels,Usage", images, [0] * 10, names)
    order = np.random.default_rng(0).permutation(10)
    lines = [",".join(VOTES[i] for i in order), *(",".join(map(str, row[order])) for row in np.eye(10, dtype=int) * 10)]
    (tmp_path / "votes.csv").write_text("\n".join(lines))
    faces = read(path, votes=tmp_path / "votes.csv")
    named = ["neutral", "happy", "surprise", "sad", "angry", "disgust", "fear"]
    assert faces.majority().tolist() == [*map(SEVEN.index, named), -1, -1, -1]
    shares, usable = faces.distributions()
    assert usable.tolist() == [True] * 7 + [False] * 3
    assert shares[:7].argmax(axis=1).tolist() == [*map(SEVEN.index, named)]


def test_missing_votes_are_named(tmp_path: Path) -> None:
    """Guards the message that says which file is missing when votes are needed."""
    faces = read(write_csv(tmp_path / "f.csv", "emotion,pixels", smooth(3), [0] * 3))
    for method in (faces.majority, faces.distributions):
        with pytest.raises(DataError, match=r"no FER\+ votes; put fer2013new.csv next to"):
            method()


def test_the_five_class_set_ignores_votes_next_to_it(tmp_path: Path) -> None:
    """Guards that emotion.csv, whose rows are not FER2013's, is not joined with the votes in the same folder."""
    write_votes(tmp_path / "fer2013new.csv", BALLOTS, ["train"] * 9)
    assert read(write_csv(tmp_path / "emotion.csv", "emotion,pixels", smooth(9), [0] * 9)).votes is None


def test_wrong_votes_are_named(tmp_path: Path) -> None:
    """Guards each message about votes that do not belong to the faces, or are not votes."""
    names = ["train"] * 7 + ["val", "test"]
    path = write_csv(tmp_path / "f.csv", "emotion,pixels,Usage", smooth(9), [0] * 9, names)
    votes = tmp_path / "v.csv"

    def message() -> str:
        with pytest.raises(DataError) as error:
            read(path, votes=votes)
        return str(error.value).replace(f"{tmp_path}{os.sep}", "")

    assert message() == "v.csv: no such file"
    write_votes(votes, BALLOTS[:8], names)
    assert message() == "v.csv: 8 rows of votes, but f.csv has 9 faces; expected a row for each face"
    write_votes(votes, BALLOTS, ["train"] * 8 + ["test"])
    assert message() == "v.csv: row 8, column Usage: expected PublicTest as in f.csv, found 'Training'"
    negative = BALLOTS.copy()
    negative[4, 0] = -1
    write_votes(votes, negative, names)
    assert message() == "v.csv: row 5, column neutral: expected votes of 0 or more"
    write_votes(votes, BALLOTS, names)
    text = votes.read_text()
    votes.write_text(text.replace("fer0000002", "x").replace("fer0000004", "fer0000002").replace(",x", ",fer0000004"))
    assert message() == (
        "v.csv: row 4, column Image name: fer0000003.png comes after fer0000004.png; votes must be in the order of "
        "their faces: sort the rows by Image name"
    )
    # a changed copy has the name of its face, and a name may be empty
    votes.write_text(text.replace("fer0000008", "fer0000000").replace("fer0000007.png", ""))
    assert read(path, votes=votes).votes is not None
    write_votes(votes, negative, names)
    votes.write_text(votes.read_text().replace("-1", "many", 1))
    assert message() == "v.csv: row 5, column neutral: expected a number, found 'many'"
    votes.write_text(votes.read_text().replace("contempt", "scorn", 1))
    assert message().startswith("v.csv: no column contempt; expected neutral, happiness")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("emotion,", "label,"), "no column emotion; expected emotion, pixels, found label, pixels, Usage"),
        (("\n0,", "\n7,"), "row 1, column emotion: expected one of 0, 1, 2, 3, 4, 5, 6, found '7'"),
        (("\n3,", "\n,"), "row 2, column emotion: expected one of 0, 1, 2, 3, 4, 5, 6, found an empty field"),
        (
            ("PrivateTest", "Private"),
            "row 3, column Usage: expected one of Training, PublicTest, PrivateTest, found 'Private'",
        ),
        ((" 9 9 9,Pub", " 9 9,Pub"), "row 2, column pixels: expected 2304 pixels, found 2303"),
        (
            (" 9 9 9,Pub", " 9 9 a,Pub"),
            "row 2, column pixels: pixel 2304: expected a whole number from 0 to 255, found 'a'",
        ),
        (
            (",PublicTest", ""),
            "row 2, column Usage: expected one of Training, PublicTest, PrivateTest, found an empty field",
        ),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    """Guards the one-line message: file, row, column and what was expected; and that nothing is cached."""
    images = np.full((3, 48, 48), 9, np.uint8)
    path = write_csv(tmp_path / "f.csv", "emotion,pixels,Usage", images, [0, 3, 6], ["train", "val", "test"])
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    for _ in range(2):
        with pytest.raises(DataError) as error:
            read(path)
        assert str(error.value) == f"{path}: {message}"


def test_a_cached_keypoint_file_is_still_no_emotion_file(tmp_path: Path) -> None:
    """Guards against one reader using the other's cache."""
    drawn.write_training(tmp_path / "training.csv", 3)
    read_keypoints(tmp_path / "training.csv", quiet=True)
    with pytest.raises(DataError, match="no column emotion, pixels; expected emotion, pixels, found left_eye"):
        read(tmp_path / "training.csv")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Guards the message about a path that does not exist."""
    with pytest.raises(DataError, match=r"none.csv: no such file or folder"):
        read(tmp_path / "none.csv")


def test_a_folder_is_read_like_the_csv_file_in_it(tmp_path: Path) -> None:
    """Guards that a downloaded folder works like the file in it, with the votes next to it."""
    folder = tmp_path / "download"
    folder.mkdir()
    names = ["train"] * 7 + ["val", "test"]
    write_csv(folder / "icml_face_data.csv", "emotion, Usage, pixels", smooth(9), [0] * 9, names)
    write_votes(folder / "fer2013new.csv", BALLOTS, names)
    faces = read(folder)
    assert len(faces) == 9
    assert np.array_equal(faces.votes, BALLOTS)


@pytest.fixture(scope="module")
def real_fer2013(data_dir: Path) -> tuple[np.ndarray, list[list[str]]]:
    """FER2013's faces (N, 48, 48) and the cells of its labels, from the data folder's mosaics."""
    folder = data_dir / "fer2013"
    cells = [line.split(",") for line in (folder / "labels.csv").read_text().splitlines()[1:]]
    tiles = []
    for file in sorted(folder.glob("faces_*.png")):
        mosaic = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        tiles.append(mosaic.reshape(60, 48, 60, 48).swapaxes(1, 2).reshape(-1, 48, 48))
    return np.concatenate(tiles)[: len(cells)], cells


@pytest.mark.data
def test_real_copies_are_left_out_of_training(real_fer2013: tuple[np.ndarray, list[list[str]]], tmp_path: Path) -> None:
    """Guards the count in the data's README, and that such faces are left out of a real file with real votes."""
    images, cells = real_fer2013
    usage = np.array([row[1] for row in cells])
    digests = pixel_hash(images)
    train = usage == "Training"
    shared = ~train & np.isin(digests, digests[train])
    assert shared.sum() == 568
    held_out = np.flatnonzero(shared)[:40]
    copies = np.flatnonzero(train & np.isin(digests, digests[held_out]))
    chosen = np.unique([*held_out, *copies, *range(100)])
    splits = [{"Training": "train", "PublicTest": "val", "PrivateTest": "test"}[usage[i]] for i in chosen]
    path = write_csv(
        tmp_path / "fer2013.csv", "emotion,pixels,Usage", images[chosen], [int(cells[i][0]) for i in chosen], splits
    )
    write_votes(tmp_path / "fer2013new.csv", np.array([cells[i][2:] for i in chosen], dtype=int), splits)
    faces = read(path)
    assert faces.report.copies == len(np.intersect1d(copies, chosen)) > 30
    assert not set(pixel_hash(faces.part("train").images)) & set(digests[held_out])
    kept = chosen[faces.rows - 1]
    assert np.array_equal(faces.images, images[kept])
    assert faces.labels.tolist() == [int(cells[i][0]) for i in kept]
    # two labellings of the same faces: with a misplaced column they would agree only by chance
    clear = faces.majority() >= 0
    assert 0.5 < (faces.majority() == faces.labels)[clear].mean() < 0.85


@pytest.mark.data
def test_real_near_copies_are_found(real_fer2013: tuple[np.ndarray, list[list[str]]]) -> None:
    """Guards the near-copy thresholds on real faces: changed copies are found, different faces are not joined."""
    images = real_fer2013[0][::70]
    false_pairs = len(near_copies(images))
    assert false_pairs <= 4
    small = [cv2.resize(image, (40, 40), interpolation=cv2.INTER_AREA) for image in images]
    soft = np.array([cv2.resize(image, (48, 48)) for image in small])
    bright = np.clip(images * 0.8 + 30, 0, 255).astype(np.uint8)
    cropped = np.array([cv2.resize(image[3:46, 1:44], (48, 48)) for image in images])
    for changed in (soft, bright, cropped, images[:, :, ::-1]):
        pairs = near_copies(np.concatenate([images, changed]))
        found = (pairs[:, 1] - pairs[:, 0] == len(images)).sum()
        assert found >= 0.97 * len(images)
