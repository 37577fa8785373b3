"""`facexp augment`: writes a dataset with changed copies of its training faces, in the format that it came in."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facexp_train.augmentation.changes import CHANGES, Change, draw_change
from facexp_train.data import tables
from facexp_train.data.classes import NAME
from facexp_train.data.emotion_data import csv_inside, read_emotion, unfit_for_training, usage_of
from facexp_train.data.keypoint_data import CANVAS_SQUARE, COORDINATES, SQUARE, read_keypoints
from facexp_train.data.votes import find_votes
from facexp_train.errors import DataError
from facexp_train.exploration.survey import task_of
from facexp_train.progress import progress_bar
from facexp_train.reporting.sheets import Cell, draw_rows, sides

SHEET, RECORD = "augmentation.png", "augmentation.json"
_SHOWN = 5
"""Faces in each row of the contact sheet."""


@dataclass(frozen=True, slots=True)
class _Faces:
    """The faces of either task: square pictures with their splits, groups and names, and points or None.

    `trained` are the indices of the faces that training uses; `has_votes` says whether FER+'s votes were read too.
    """

    images: NDArray[np.uint8]
    split: NDArray[np.str_]
    group: NDArray[np.str_]
    names: NDArray[np.str_]
    points: NDArray[np.float32] | None
    trained: NDArray[np.int64]
    has_votes: bool = False


@dataclass(frozen=True, slots=True)
class Augmented:
    """What was written. `path` is what `facexp train` takes; `faces` and `copies` count original faces and copies."""

    path: Path
    faces: int
    copies: int


def augment(
    data: str | Path, out: Path, only: Sequence[str] = CHANGES, *, seed: int = 0, quiet: bool = False
) -> Augmented:
    """Write a dataset into the folder `out`: its faces as they are, then a copy of each training face for each change.

    The format is that of `data`. A CSV file keeps its name, its columns and the order of its rows, with the copies
    appended, so that row numbers stay valid. If it names no splits or no groups, a column `split` or `group` is added:
    without it the reader would divide the faces, and the copies would change that division. FER+'s votes and the labels
    file next to it are written as well. Images of a folder are copied, those of a folder of classes into train, val and
    test; changed copies are PNG files, framed as the reader frames the faces.

    Only faces that training uses are copied. A face that shows a validation or test picture is not, because a rotated
    copy of it would no longer be recognised as one. `seed` determines the changes; if `data` names no splits, they are
    those that `facexp train` makes by default. Next to the dataset, augmentation.png shows each change and
    augmentation.json records what was done.

    Raises DataError if the data cannot be read, `out` is not empty or a change is unknown, and OSError if `out` cannot
    be written. After an error nothing is left in `out`.
    """
    if unknown := [name for name in only if name not in CHANGES]:
        raise DataError(f"no change is named {unknown[0]}; expected some of {', '.join(CHANGES)}")
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: is not empty; give another folder")
    place = Path(data)
    task = task_of(place)
    place = csv_inside(place) or place if task == "emotion" else place
    faces = _emotion(place, quiet) if task == "emotion" else _keypoints(place, quiet)
    if not len(faces.trained):
        raise DataError(f"{data}: has no training faces to change")
    chosen = [name for name in CHANGES if name in only]
    changes = [draw_change(name, len(faces.images), faces.images.shape[1], seed) for name in chosen]
    writer = _write_csv if place.is_file() else _write_classes if task == "emotion" else _write_labels
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    # written next to `out` under a unique name and then renamed, so that `out` is either complete or missing
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        part = Path(scratch) / out.name
        part.mkdir()
        with progress_bar(len(faces.trained) * len(changes), "writing copies", "image", quiet=quiet) as bar:
            writer(place, part, faces, changes, bar.update)
        labels = place / NAME if place.is_dir() else place.with_suffix(f".{NAME}")
        if labels.is_file():
            shutil.copyfile(labels, part / labels.name)
        _draw(faces, changes, part / SHEET)
        copies = len(faces.trained) * len(changes)
        record = {"data": str(data), "seed": seed, "changes": chosen, "faces": len(faces.images), "copies": copies}
        (part / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        if out.exists():
            out.rmdir()
        part.replace(out)
    return Augmented(out / place.name if place.is_file() else out, len(faces.images), copies)


def _emotion(place: Path, quiet: bool) -> _Faces:
    faces = read_emotion(place, whole=True, quiet=quiet)
    unfit = unfit_for_training(faces.images, faces.split, faces.copies, faces.group)
    used = (faces.split == "train") & (faces.labels >= 0) & ~np.any(list(unfit.values()), axis=0)
    trained = np.flatnonzero(used)
    return _Faces(faces.images, faces.split, faces.group, faces.names, None, trained, faces.votes is not None)


def _keypoints(place: Path, quiet: bool) -> _Faces:
    faces = read_keypoints(place, quiet=quiet)
    trained = np.flatnonzero(faces.split == "train")
    return _Faces(faces.images, faces.split, faces.group, faces.names, faces.points, trained)


def _draw(faces: _Faces, changes: Sequence[Change], path: Path) -> None:
    shown = faces.trained[:: max(1, len(faces.trained) // _SHOWN)][:_SHOWN]
    rows = {"original": [_cell(faces.images[face], faces.points, face) for face in shown]}
    for change in changes:
        points = None if faces.points is None else change.points(faces.points)
        rows[change.name] = [_cell(change.image(faces.images[face], face), points, face) for face in shown]
    draw_rows(rows, path)


def _cell(image: NDArray[np.uint8], points: NDArray[np.float32] | None, face: int) -> Cell:
    return Cell(image, (), {} if points is None else sides(points[face]))


def _copies(faces: _Faces, changes: Sequence[Change]) -> Iterator[tuple[int, str, NDArray[np.uint8], dict[str, str]]]:
    """Each copy: its face's index, the name of the change, the picture, and its coordinate cells by column."""
    for change in changes:
        points = None if faces.points is None else change.points(faces.points)
        for face in faces.trained.tolist():
            cells = {} if points is None else _cells(points[face])
            yield face, change.name, change.image(faces.images[face], face), cells


def _cells(points: NDArray[np.float32]) -> dict[str, str]:
    return {
        name: "" if np.isnan(value) else f"{value:.4f}"
        for name, value in zip(COORDINATES, points.ravel().tolist(), strict=True)
    }


def _write_table(
    source: Path, target: Path, faces: _Faces, pixels: str, copies: Iterable[tuple[int, dict[str, str]]]
) -> None:
    """Write the rows of a table, then a row per copy: the cells of its face, except for those that `copies` replaces.

    `pixels` is the column of the picture, which every copy replaces; "" if there is none.
    """
    rows = tables.rows(source)
    names = [name.strip() for name in next(rows)]
    # splits that the reader drew are written down: with the copies it would draw others
    split_column = "Usage" if "Usage" in names else "split"
    splits = [usage_of(split) if split_column == "Usage" else split for split in faces.split.tolist()]
    added = [name for name in (split_column, "group") if name not in names]
    kept: dict[int, list[str]] = {}
    trained = set(faces.trained.tolist())
    with target.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*_header(source, names), *added])
        # several columns may have no name, such as the last ones of a spreadsheet
        columns = {name: place for place, name in enumerate([*names, *added])}
        for face, cells in enumerate(rows):
            cells = cells + [""] * (len(names) + len(added) - len(cells))
            cells[columns[split_column]] = splits[face]
            if "group" in added:
                cells[columns["group"]] = str(faces.group[face])
            table.writerow(cells)
            if face in trained:
                kept[face] = cells
                if pixels:
                    kept[face][columns[pixels]] = ""
        for face, changed in copies:
            cells = list(kept[face])
            for name, cell in changed.items():
                cells[columns[name]] = cell
            table.writerow(cells)


def _header(source: Path, names: Sequence[str]) -> list[str]:
    """A table's header with the blanks before its names: programs for icml_face_data.csv expect " pixels"."""
    with source.open(encoding="utf-8-sig", newline="") as file:
        written = next(row for row in csv.reader(file) if "".join(row).strip())
    if len(written) != len(names):
        # a quoted name after a blank contains commas, at which this reader splits it
        return list(names)
    return [cell if cell.strip() == name else name for cell, name in zip(written, names, strict=True)]


def _write_csv(place: Path, part: Path, faces: _Faces, changes: Sequence[Change], done: Callable[[], object]) -> None:
    pixels = "pixels" if faces.points is None else "Image"

    def copies() -> Iterator[tuple[int, dict[str, str]]]:
        for face, _, image, cells in _copies(faces, changes):
            yield face, {**cells, pixels: " ".join(map(str, image.ravel().tolist()))}
            done()

    _write_table(place, part / place.name, faces, pixels, copies())
    votes = find_votes(place)
    if votes is not None and faces.has_votes:
        vote_rows: list[tuple[int, dict[str, str]]] = [(face, {}) for _ in changes for face in faces.trained.tolist()]
        _write_table(votes, part / votes.name, faces, "", vote_rows)


def _write_classes(
    place: Path, part: Path, faces: _Faces, changes: Sequence[Change], done: Callable[[], object]
) -> None:
    """Write a folder of images per class, under train, val and test."""
    folders = []
    for name, split in zip(faces.names.tolist(), faces.split.tolist(), strict=True):
        source = place / name
        target = part / split / source.parent.name / source.name
        if target.exists():
            raise DataError(f"{source}: another image of the class and split has this name; rename one")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        folders.append(target)
    for face, change, image, _ in _copies(faces, changes):
        _write_png(_copy_path(folders[face], change), image)
        done()


def _write_labels(
    place: Path, part: Path, faces: _Faces, changes: Sequence[Change], done: Callable[[], object]
) -> None:
    """Write a folder of images with labels.csv."""
    inside = "images" if (place / "images").is_dir() else "."
    for name in faces.names.tolist():
        if not (place / inside / name).resolve().is_relative_to(place.resolve()):
            raise DataError(f"{place / 'labels.csv'}: {name} lies outside of the folder; move it into the folder first")
        target = part / inside / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place / inside / name, target)
    square = dict(zip(SQUARE, map(str, CANVAS_SQUARE), strict=True))

    def copies() -> Iterator[tuple[int, dict[str, str]]]:
        for face, change, image, cells in _copies(faces, changes):
            path = _copy_path(part / inside / str(faces.names[face]), change)
            _write_png(path, image)
            yield face, {"file": path.relative_to(part / inside).as_posix(), **square, **cells}
            done()

    _write_table(place / "labels.csv", part / "labels.csv", faces, "", copies())


def _copy_path(image: Path, change: str) -> Path:
    """A free path for a changed copy: several faces may share an image, and the data may hold copies already."""
    for number in count(1):
        path = image.with_name(f"{image.name}.{change}{f'-{number}' * (number > 1)}.png")
        if not path.exists():
            break
    return path


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
