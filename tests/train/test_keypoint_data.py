"""Keypoint faces: Kaggle's files, and a folder of images with labels.csv, warped onto one canvas."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from drawn import smooth
from facexp.geometry import KEYPOINTS
from facexp_train.data.keypoint_data import COORDINATES, read_keypoints
from facexp_train.errors import DataError

HEADER = ["file", "source", "group", "split", "crop_x", "crop_y", "crop_side", "upscale", *COORDINATES]


def some_points(count: int) -> np.ndarray:
    return np.random.default_rng(7).uniform(5, 90, (count, 15, 2)).round(3).astype(np.float32)


def row_of(image: np.ndarray, points: np.ndarray) -> dict[str, str]:
    cells = {
        name: "" if np.isnan(value) else str(value) for name, value in zip(COORDINATES, points.ravel(), strict=True)
    }
    return {**cells, "Image": " ".join(map(str, image.ravel()))}


def write_rows(path: Path, header: list[str], rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([row[name] for name in header] for row in rows)
    return path


read = partial(read_keypoints, quiet=True)


def test_coordinates_are_named_as_in_kaggles_header() -> None:
    assert COORDINATES[:3] == ("left_eye_center_x", "left_eye_center_y", "right_eye_center_x")
    assert len(COORDINATES) == 30


@pytest.mark.parametrize(
    "arrange",
    [
        lambda names: [*names, "Image"],
        lambda names: ["", *names, "Image"],
        lambda names: ["Image", *reversed(names)],
        lambda names: ["ImageId", *names[9:], "Image", *names[:9]],
    ],
    ids=["training.csv", "KeyFacialPoints.csv", "reversed", "shuffled"],
)
def test_kaggles_files_are_read(tmp_path: Path, arrange: Callable[[list[str]], list[str]]) -> None:
    """Guards columns in any order, a leading index column, missing points, and the same result from the cache."""
    images, points = smooth(20, size=96), some_points(20)
    points[1, 3:] = np.nan
    points[2, 0] = np.nan
    rows = [
        {**row_of(image, face), "": str(i), "ImageId": str(i)}
        for i, (image, face) in enumerate(zip(images, points, strict=True))
    ]
    path = write_rows(tmp_path / "training.csv", arrange(list(COORDINATES)), rows)
    for _ in range(2):
        faces = read(path)
        assert len(faces) == 20
        assert np.array_equal(faces.images, images)
        assert faces.images.dtype == np.uint8
        assert np.allclose(faces.points, points, atol=1e-4, equal_nan=True)
        assert faces.points.dtype == np.float32
        assert np.array_equal(faces.squares, np.tile([47.5, 47.5, 96.0], (20, 1)))
        assert faces.names.tolist() == [str(i) for i in range(1, 21)]
        assert set(faces.source) == {"training"}
        assert faces.complete().tolist() == [i not in (1, 2) for i in range(20)]


def test_a_point_with_one_coordinate_is_missing(tmp_path: Path) -> None:
    """Guards against training on half a point."""
    row = row_of(smooth(1, size=96)[0], some_points(1)[0])
    row["nose_tip_y"] = ""
    faces = read(write_rows(tmp_path / "t.csv", [*COORDINATES, "Image"], [row]))
    assert np.flatnonzero(np.isnan(faces.points[0]).any(axis=1)).tolist() == [KEYPOINTS.index("nose_tip")]
    assert np.isnan(faces.points[0, KEYPOINTS.index("nose_tip")]).all()


def test_copies_share_a_split(tmp_path: Path) -> None:
    """Guards Kaggle's file against the same face in training and test, exact or brighter, and the seed."""
    images = smooth(50, size=96)
    images = np.concatenate([images, images, np.clip(images * 0.7 + 40, 0, 255).astype(np.uint8)])
    rows = [row_of(image, face) for image, face in zip(images, some_points(150), strict=True)]
    path = write_rows(tmp_path / "t.csv", [*COORDINATES, "Image"], rows)
    faces = read(path)
    splits = faces.split.reshape(3, 50)
    assert (splits == splits[0]).all()
    assert [len(faces.part(name)) for name in ("train", "val", "test")] == [120, 15, 15]
    assert not np.array_equal(read(path, seed=1).split, faces.split)


def test_a_group_column_keeps_faces_together(tmp_path: Path) -> None:
    """Guards that faces of one person or photo are in one split when the file names their group."""
    groups = [f"person {i % 10}" for i in range(40)]
    faces = zip(smooth(40, size=96), some_points(40), groups, strict=True)
    rows = [{**row_of(image, points), "group": group} for image, points, group in faces]
    result = read(write_rows(tmp_path / "t.csv", ["group", *COORDINATES, "Image"], rows))
    assert result.group.tolist() == groups
    assert all(len(set(result.split[result.group == group])) == 1 for group in groups)
    assert set(result.split) == {"train", "val", "test"}
    rows[3]["group"] = ""
    with pytest.raises(DataError, match="row 4, column group: expected a name, found an empty field"):
        read(write_rows(tmp_path / "t.csv", ["group", *COORDINATES, "Image"], rows))


def test_a_split_column_is_used(tmp_path: Path) -> None:
    """Guards that a file's own split is kept, and that it gets validation faces if it has none."""
    names = [*["train"] * 20, *["test"] * 5]
    faces = zip(smooth(25, size=96), some_points(25), names, strict=True)
    rows = [{**row_of(image, points), "split": split} for image, points, split in faces]
    split = read(write_rows(tmp_path / "t.csv", ["split", *COORDINATES, "Image"], rows)).split
    assert split[20:].tolist() == ["test"] * 5
    assert sorted(split[:20].tolist()) == [*["train"] * 18, *["val"] * 2]


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("nose_tip_x", "left", "row 2, column nose_tip_x: expected a number or an empty field, found 'left'"),
        ("Image", "1 2 3", "row 2, column Image: expected 9216 pixels, found 3"),
        ("Image", "256 " * 9216, "row 2, column Image: pixel 1: expected a whole number from 0 to 255, found '256'"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path: Path, column: str, cell: str, message: str) -> None:
    """Guards the one-line message about a wrong cell: file, row, column, what was expected."""
    rows = [row_of(image, points) for image, points in zip(smooth(3, size=96), some_points(3), strict=True)]
    rows[1][column] = cell
    path = write_rows(tmp_path / "t.csv", [*COORDINATES, "Image"], rows)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value) == f"{path}: {message}"


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    """Guards the messages: no file, another table (Kaggle's test.csv has no points), a folder without labels."""
    with pytest.raises(DataError, match=r"none.csv: no such file or folder"):
        read(tmp_path / "none.csv")
    path = write_rows(tmp_path / "test.csv", ["ImageId", "Image"], [{"ImageId": "1", "Image": "1 2"}])
    with pytest.raises(DataError, match=r"no column left_eye_center_x, .* found ImageId, Image$"):
        read(path)
    with pytest.raises(
        DataError, match=r"no labels.csv in it; expected Kaggle's CSV file, or a folder with labels.csv"
    ):
        read(tmp_path)


def make_folder(folder: Path, count: int = 4, images: str = "images") -> tuple[np.ndarray, list[dict[str, str]]]:
    """Write 176x176 images with a 96 px square at (40, 40); return them and the rows of their labels.csv."""
    pictures, points = smooth(count, size=176), some_points(count) + 40
    rows = []
    for index in range(count):
        file = folder / images / "set" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), pictures[index])
        row = row_of(pictures[index], points[index])
        row |= {
            "file": f"set/{index}.png",
            "source": "set",
            "group": f"g{index}",
            "split": ("train", "val", "test")[index % 3],
        }
        rows.append({**row, "crop_x": "40.0", "crop_y": "40.0", "crop_side": "96", "upscale": "1.0"})
    return pictures, rows


@pytest.mark.parametrize("images", ["images", "."])
def test_images_framed_like_the_canvas_are_unchanged(tmp_path: Path, images: str) -> None:
    """Guards that images framed like the canvas keep every pixel, their splits and their names."""
    pictures, rows = make_folder(tmp_path, images=images)
    rows[0]["nose_tip_x"] = rows[0]["nose_tip_y"] = ""
    write_rows(tmp_path / "labels.csv", HEADER, rows)
    faces = read(tmp_path)
    assert np.array_equal(faces.images, pictures)
    expected = some_points(4) + 40
    expected[0, KEYPOINTS.index("nose_tip")] = np.nan
    assert np.allclose(faces.points, expected, atol=1e-4, equal_nan=True)
    assert np.array_equal(faces.squares, np.tile([87.5, 87.5, 96.0], (4, 1)))
    assert faces.source.tolist() == ["set"] * 4
    assert faces.group.tolist() == ["g0", "g1", "g2", "g3"]
    assert faces.split.tolist() == ["train", "val", "test", "train"]
    assert faces.names.tolist() == [f"set/{i}.png" for i in range(4)]
    part = faces.part("train")
    assert part.names.tolist() == ["set/0.png", "set/3.png"]
    assert part.complete().tolist() == [False, True]
    with pytest.raises(ValueError, match="'all'"):
        faces.part("all")
    rows[2]["group"] = ""
    write_rows(tmp_path / "labels.csv", HEADER, rows)
    with pytest.raises(DataError, match=r"labels\.csv: row 3, column group: expected a name, found an empty field"):
        read(tmp_path)


def test_other_framings_are_warped_onto_the_canvas(tmp_path: Path) -> None:
    """Guards the warp: small and large images of one face, each with its own square, give the same canvas."""
    pictures, rows = make_folder(tmp_path, count=3)
    dots = np.array([[60, 70], [110, 72], [88, 120]], np.float32)  # canvas pixels
    face = cv2.GaussianBlur(pictures[0], (0, 0), 3) // 2
    for x, y in dots.astype(int):
        cv2.circle(face, (int(x), int(y)), 4, 255, -1)
    for index, (scale, shift_x, shift_y) in enumerate([(1, 0, 0), (0.5, 4, -3), (3, -11, 8)]):
        size = int(176 * scale) + 40
        # canvas -> file: pixel edges scale, so centres move by half a pixel of each side
        matrix = np.array([[scale, 0, (scale - 1) / 2 + 20 + shift_x], [0, scale, (scale - 1) / 2 + 20 + shift_y]])
        cv2.imwrite(
            str(tmp_path / "images" / "set" / f"{index}.png"),
            cv2.warpAffine(face, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE),
        )
        moved = dots @ matrix[:, :2].T + matrix[:, 2]
        cells = dict.fromkeys(COORDINATES, "")
        for name, (x, y) in zip(("left_eye_center", "right_eye_center", "nose_tip"), moved, strict=True):
            cells |= {f"{name}_x": str(x), f"{name}_y": str(y)}
        crop = {"crop_x": str(40 * scale + 20 + shift_x), "crop_y": str(40 * scale + 20 + shift_y)}
        rows[index] |= {**cells, **crop, "crop_side": str(96 * scale)}
    faces = read(write_rows(tmp_path / "labels.csv", HEADER, rows).parent)
    places = [KEYPOINTS.index(name) for name in ("left_eye_center", "right_eye_center", "nose_tip")]
    for index in range(3):
        assert np.allclose(faces.points[index, places], dots, atol=0.01)
        for x, y in dots.astype(int):
            patch = faces.images[index, y - 12 : y + 13, x - 12 : x + 13].astype(float)
            patch = np.maximum(patch - 150, 0)
            grid = np.arange(-12, 13)
            middle = [(patch.sum(axis=0) * grid).sum() / patch.sum(), (patch.sum(axis=1) * grid).sum() / patch.sum()]
            assert np.abs(middle).max() < 0.15


def test_labels_without_splits_are_divided(tmp_path: Path) -> None:
    """Guards a folder whose labels.csv has neither split nor group nor source."""
    _, rows = make_folder(tmp_path, count=30)
    header = [name for name in HEADER if name not in ("split", "group", "source", "upscale")]
    write_rows(tmp_path / "labels.csv", header, rows)
    faces = read(tmp_path)
    assert [len(faces.part(name)) for name in ("train", "val", "test")] == [24, 3, 3]
    assert len(set(faces.group)) == 30
    assert set(faces.source) == {tmp_path.name}


def test_the_current_folder_may_be_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `facexp train keypoints .`: the path "." has no name that could be the source of its faces."""
    folder = tmp_path / "faces"
    folder.mkdir()
    _, rows = make_folder(folder)
    write_rows(folder / "labels.csv", [name for name in HEADER if name != "source"], rows)
    monkeypatch.chdir(folder)
    assert set(read(Path()).source) == {"faces"}


def test_validation_faces_are_taken_from_training(tmp_path: Path) -> None:
    """Guards that labels with only training and test faces still give faces to choose the best epoch by."""
    _, rows = make_folder(tmp_path, count=30)
    for index, row in enumerate(rows):
        row["split"] = "train" if index < 20 else "test"
    write_rows(tmp_path / "labels.csv", HEADER, rows)
    faces = read(tmp_path)
    assert [len(faces.part(name)) for name in ("train", "val", "test")] == [18, 2, 10]


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("crop_side", "0", "row 2, column crop_side: expected a positive number, found '0'"),
        ("crop_x", "", "row 2, column crop_x: expected a number, found an empty field"),
        ("split", "dev", "row 2, column split: expected one of train, val, test, found 'dev'"),
        ("file", "", "row 2, column file: expected a name, found an empty field"),
        ("source", "", "row 2, column source: expected a name, found an empty field"),
        ("nose_tip_y", "?", "row 2, column nose_tip_y: expected a number or an empty field, found '?'"),
    ],
)
def test_a_wrong_label_is_named(tmp_path: Path, column: str, cell: str, message: str) -> None:
    """Guards the one-line message about a wrong cell of labels.csv."""
    _, rows = make_folder(tmp_path)
    rows[1][column] = cell
    path = write_rows(tmp_path / "labels.csv", HEADER, rows)
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert str(error.value) == f"{path}: {message}"


def test_a_missing_or_broken_image_is_named(tmp_path: Path) -> None:
    """Guards the message about an image of labels.csv that does not exist or cannot be decoded."""
    _, rows = make_folder(tmp_path)
    write_rows(tmp_path / "labels.csv", HEADER, rows)
    image = tmp_path / "images" / "set" / "2.png"
    image.write_bytes(b"no picture")
    with pytest.raises(
        DataError, match=r"labels.csv: row 3, column file: .*2.png: expected an image, but OpenCV cannot"
    ):
        read(tmp_path)
    image.unlink()
    with pytest.raises(
        DataError, match=r"labels.csv: row 3, column file: .*2.png: expected an image, but .* No such file"
    ):
        read(tmp_path)


@pytest.mark.data
def test_real_faces_are_framed_by_the_formula_of_their_data(tmp_path: Path, data_dir: Path) -> None:
    """Guards the framing of every real source against the data folder's own formula for Kaggle's 96x96 picture."""
    folder = data_dir / "keypoints"
    with (folder / "labels.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = table[::400]
    assert {row["source"] for row in rows} == {"face21", "helen", "mtfl", "ytfaces"}
    (tmp_path / "images").symlink_to((folder / "images").resolve())
    write_rows(tmp_path / "labels.csv", list(rows[0]), rows)
    faces = read(tmp_path)
    assert faces.images.shape == (len(rows), 176, 176)
    assert faces.split.tolist() == [row["split"] for row in rows]
    known = [KEYPOINTS.index(name) for name in ("left_eye_center", "right_eye_center", "nose_tip")]
    for index, row in enumerate(rows):
        image = cv2.imread(str(folder / "images" / row["file"]), cv2.IMREAD_GRAYSCALE)
        scale = 96 / float(row["crop_side"])
        offset = np.array([(0.5 - float(row[name])) * scale - 0.5 for name in ("crop_x", "crop_y")])
        matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
        expected = cv2.warpAffine(image, matrix, (96, 96), borderMode=cv2.BORDER_REPLICATE).astype(int)
        assert np.abs(faces.images[index, 40:136, 40:136] - expected).max() <= 8
        assert np.abs(faces.images[index, 40:136, 40:136] - expected).mean() <= 0.5
        points = np.array([float(row[name] or "nan") for name in COORDINATES]).reshape(15, 2) * scale + offset
        assert np.allclose(faces.points[index] - 40, points, atol=1e-3, equal_nan=True)
        assert ((points[known] > 0) & (points[known] < 96)).all()
        assert faces.complete()[index] == (row["source"] != "mtfl")
