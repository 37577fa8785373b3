"""Faces with 15 keypoints: Kaggle's CSV files, or a folder of images with labels.csv."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp.geometry import KEYPOINTS, Square, interocular, square_matrix, transform, warp
from facexp_train.data import tables
from facexp_train.data.splits import SPLITS, complete_split, duplicate_groups
from facexp_train.errors import DataError
from facexp_train.progress import progress_bar

COORDINATES: tuple[str, ...] = tuple(f"{name}_{axis}" for name in KEYPOINTS for axis in "xy")
SQUARE: tuple[str, ...] = ("crop_x", "crop_y", "crop_side")
KAGGLE_SIZE = 96
CANVAS = 176
"""Side in pixels of a folder's canvases: the 96 px framing square with a margin of 40 px on every side, which the
jitter needs."""
CANVAS_SQUARE: tuple[int, int, int] = ((CANVAS - KAGGLE_SIZE) // 2, (CANVAS - KAGGLE_SIZE) // 2, KAGGLE_SIZE)
"""The values of the SQUARE columns for a canvas that is saved as an image file."""
_SPLIT_NAMES = {name: name for name in SPLITS}


@dataclass(frozen=True, slots=True)
class KeypointFaces:
    """N faces on square canvases, with their points and the square that frames each face.

    Attributes:
        images: uint8 (N, C, C) gray canvases; C is 96 for a CSV file, 176 for a folder.
        points: float32 (N, 15, 2) x, y in canvas pixels, in the order of facexp.geometry.KEYPOINTS; NaN where missing.
        squares: float64 (N, 3) centre x, centre y and side of the framing square, in canvas pixels.
        source: (N,) str, the dataset that a face comes from.
        group: (N,) str, equal for faces of the same photo or person, or for faces that are copies of each other.
        split: (N,) str, "train", "val" or "test"; a group is in one split only, unless the file's own splits divide it.
        names: (N,) str, the image's file, or the 1-based data row of the CSV file.
        upscale: float64 (N,) the factor by which the file's image was enlarged from the original; NaN where unknown.
    """

    images: NDArray[np.uint8]
    points: NDArray[np.float32]
    squares: NDArray[np.float64]
    source: NDArray[np.str_]
    group: NDArray[np.str_]
    split: NDArray[np.str_]
    names: NDArray[np.str_]
    upscale: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.images)

    def part(self, split: str) -> KeypointFaces:
        """The faces of one split; ValueError if `split` is not train, val or test."""
        if split not in SPLITS:
            raise ValueError(f"a split is one of {', '.join(SPLITS)}, got {split!r}")
        return self.chosen(self.split == split)

    def chosen(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> KeypointFaces:
        """The faces that a boolean mask (N,) or row numbers select, in the order of the selection."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def complete(self) -> NDArray[np.bool_]:
        """(N,) bool: True for faces with all 15 points labelled."""
        return np.asarray(np.isfinite(self.points).all(axis=(1, 2)))

    def rated(self) -> NDArray[np.bool_]:
        """(N,) bool: True for complete faces with two different eye positions.

        Errors are divided by the inter-ocular distance, so it must not be zero.
        """
        return self.complete() & (interocular(self.points) > 0)


def read_keypoints(path: str | Path, *, seed: int = 0, quiet: bool = False) -> KeypointFaces:
    """Faces and points from Kaggle's CSV files, or from a folder with labels.csv.

    A CSV file has Kaggle's 30 coordinate columns and `Image` (9,216 pixels), in any order. An empty coordinate is a
    missing point. Faces are split by the `split` column (train, val, test). Without one they are divided 80/10/10,
    seeded with `seed`, by whole groups: those of the `group` column, or of copies of the same picture. Other columns
    are ignored. The file is parsed once and then read from a cache (see facexp_train.data.tables.cached).

    A folder's labels.csv has file, crop_x, crop_y, crop_side (pixels of the image file) and the 30 coordinates. Its
    source, group and split columns are used if present. Every face is warped onto a canvas of the same size.

    Raises DataError with the file, row and column of the first error.
    """
    file = Path(path)
    if file.is_dir():
        return _read_folder(file, seed, quiet)
    arrays = tables.cached(file, "keypoints", lambda: _parse_kaggle(file, quiet))
    images = np.asarray(arrays["images"], dtype=np.uint8)
    groups = np.asarray(arrays["group"], dtype=np.str_)
    count = len(images)
    middle = (KAGGLE_SIZE - 1) / 2
    return KeypointFaces(
        images=images,
        points=np.asarray(arrays["points"], dtype=np.float32),
        squares=np.tile(np.array([middle, middle, KAGGLE_SIZE], dtype=np.float64), (count, 1)),
        source=np.full(count, file.stem),
        group=groups,
        split=complete_split(np.asarray(arrays["split"], dtype="U5"), groups, seed),
        names=np.arange(1, count + 1).astype(np.str_),
        upscale=np.full(count, np.nan),
    )


def _parse_kaggle(path: Path, quiet: bool) -> tables.Arrays:
    images, points, groups, splits = [], [], [], []
    for row, columns in tables.chunks(path, [*COORDINATES, "Image"], quiet=quiet):
        points.append(_points(columns, path, row))
        images.append(tables.pixels(columns["Image"], KAGGLE_SIZE, path, row, "Image"))
        groups.extend(tables.nonempty(columns.get("group", []), path, row, "group"))
        splits.extend(tables.choices(columns.get("split", []), _SPLIT_NAMES, path, row, "split"))
    faces = np.concatenate(images)
    group = np.array(groups, dtype=np.str_) if groups else duplicate_groups(faces, quiet=quiet)
    return {
        "images": faces,
        "points": np.concatenate(points),
        "group": group,
        "split": np.array(splits, dtype="U5"),
    }


def _points(columns: dict[str, list[str]], path: Path, row: int) -> NDArray[np.float32]:
    coordinates = [tables.numbers(columns[name], path, row, name, missing=True) for name in COORDINATES]
    points = np.stack(coordinates, axis=1).reshape(-1, len(KEYPOINTS), 2)
    # a point with only one of its two coordinates counts as missing
    points[np.isnan(points).any(axis=2)] = np.nan
    return points.astype(np.float32)


def _read_folder(folder: Path, seed: int, quiet: bool) -> KeypointFaces:
    path = folder / "labels.csv"
    if not path.is_file():
        raise DataError(
            f"{folder}: no labels.csv in it; expected Kaggle's CSV file, or a folder with labels.csv and images"
        )
    pictures = folder / "images" if (folder / "images").is_dir() else folder
    table: dict[str, list[str]] = {}
    # quiet: the table is small; reading the images takes the time, and has its own progress bar
    for _, columns in tables.chunks(path, ["file", *SQUARE, *COORDINATES], quiet=True):
        for name, cells in columns.items():
            table.setdefault(name, []).extend(cells)
    names = tables.nonempty(table["file"], path, 1, "file")
    points = _points(table, path, 1)
    # the absolute path, because "." has no name
    sources = tables.nonempty(table.get("source", [folder.absolute().name] * len(names)), path, 1, "source")
    crops = np.stack([tables.numbers(table[name], path, 1, name) for name in SQUARE], axis=1)
    if (invalid := np.flatnonzero(crops[:, 2] <= 0)).size:
        cell = table["crop_side"][invalid[0]]
        raise DataError(f"{path}: row {invalid[0] + 1}, column crop_side: expected a positive number, found {cell!r}")
    own_split = np.array(tables.choices(table.get("split", []), _SPLIT_NAMES, path, 1, "split"), dtype=np.str_)
    images = np.empty((len(names), CANVAS, CANVAS), dtype=np.uint8)
    with progress_bar(len(names), f"reading {folder.name}", "image", quiet=quiet) as bar:
        for index, (x, y, side) in enumerate(crops):
            gray = tables.read_gray(pictures / names[index], f"{path}: row {index + 1}, column file: ")
            # crop_x is the centre of the square's first pixel, so the square's centre is at half the side less 0.5
            middle = side / 2 - 0.5
            matrix = square_matrix(Square(x + middle, y + middle, side * CANVAS / KAGGLE_SIZE), CANVAS)
            images[index] = warp(gray, matrix, CANVAS)
            points[index] = transform(points[index], matrix)
            bar.update()
    upscale = np.full(len(names), np.nan)
    if "upscale" in table:
        upscale = tables.numbers(table["upscale"], path, 1, "upscale", missing=True).astype(np.float64)
    own_groups = tables.nonempty(table.get("group", []), path, 1, "group")
    groups = np.array(own_groups) if own_groups else duplicate_groups(images, quiet=quiet)
    return KeypointFaces(
        images=images,
        points=points,
        squares=np.tile(np.array([(CANVAS - 1) / 2, (CANVAS - 1) / 2, KAGGLE_SIZE], dtype=np.float64), (len(names), 1)),
        source=np.array(sources, dtype=np.str_),
        group=groups,
        split=complete_split(own_split, groups, seed),
        names=np.array(names, dtype=np.str_),
        upscale=upscale,
    )
