"""A dataset of either task as `facexp explore` shows it: all faces, also those that training leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp_train.augmentation.framing import cut_squares
from facexp_train.config import Task
from facexp_train.data import tables
from facexp_train.data.emotion_data import read_emotion
from facexp_train.data.keypoint_data import COORDINATES, read_keypoints
from facexp_train.data.splits import duplicate_groups, pixel_hash
from facexp_train.errors import DataError


@dataclass(frozen=True, slots=True)
class Survey:
    """N faces of a dataset file or folder.

    Attributes:
        task: the task that the labels are for.
        rows_note: a sentence that explains `rows`.
        images: uint8 (N, S, S), in the dataset's framing: 48 px for emotion, 96 px for keypoints.
        split: (N,) str, "train", "val" or "test".
        rows: (N,) str, the 1-based data row of the CSV file, or the image's path in a folder of classes.
        pixels: (N,) str, equal where all pixels are equal.
        copies: (N,) str, equal where faces show the same picture (see splits.duplicate_groups).
        source: (N,) str, the dataset that a face comes from.
        classes: names of the labels; () for keypoints.
        labels: int64 (N,) codes of `classes`, or None.
        points: float32 (N, 15, 2) in pixels of the images, NaN where missing, or None.
        voted: int64 (N,) the codes that more than half of FER+'s voters gave, -1 without such a majority; or None.
        voted_no_face: bool (N,) True where more than half of FER+'s voters saw no face; or None.
    """

    task: Task
    rows_note: str
    images: NDArray[np.uint8]
    split: NDArray[np.str_]
    rows: NDArray[np.str_]
    pixels: NDArray[np.str_]
    copies: NDArray[np.str_]
    source: NDArray[np.str_]
    classes: Sequence[str] = ()
    labels: NDArray[np.int64] | None = None
    points: NDArray[np.float32] | None = None
    voted: NDArray[np.int64] | None = None
    voted_no_face: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.images)


def task_of(path: str | Path) -> Task:
    """The task that a dataset is labelled for, by a CSV file's columns or a folder's content; DataError if neither."""
    place = Path(path)
    if place.is_dir():
        table = place / "labels.csv"
        # other datasets may have a file of this name too, so the columns decide
        points = table.is_file() and not set(COORDINATES).isdisjoint(tables.columns(table))
        return "keypoints" if points else "emotion"
    columns = tables.columns(place)
    if "emotion" in columns:
        return "emotion"
    if "Image" in columns:
        return "keypoints"
    raise DataError(
        f"{place}: neither a column emotion (as in FER2013) nor Image (as in Kaggle's keypoints); found "
        f"{tables.listed(columns)}"
    )


def survey(path: str | Path, votes: str | Path | None = None, *, quiet: bool = False) -> Survey:
    """Read a dataset in any format that `facexp train` reads; DataError if it cannot be read."""
    place = Path(path)
    if task_of(place) == "emotion":
        return _emotion(place, votes, quiet)
    if votes is not None:
        raise DataError(f"{votes}: FER+'s votes are for emotions, but {place} has keypoints")
    return _keypoints(place, quiet)


def _emotion(place: Path, votes: str | Path | None, quiet: bool) -> Survey:
    faces = read_emotion(place, votes, whole=True, quiet=quiet)
    faces = faces.chosen(faces.labels >= 0)
    numbered = all(name.isdecimal() for name in faces.names)
    voted_no_face = None
    if faces.votes is not None:
        voted_no_face = faces.votes[:, -1] > faces.votes.sum(axis=1) / 2
    return Survey(
        task="emotion",
        rows_note=f"Rows are the data rows of {place.name}, counted from 1 without the header."
        if numbered
        else f"Rows are named by the path of the image in {place.name}.",
        images=faces.images,
        split=faces.split,
        rows=faces.names,
        pixels=pixel_hash(faces.images),
        copies=faces.copies,
        source=np.full(len(faces), place.stem),
        classes=faces.classes,
        labels=faces.labels,
        voted=None if faces.votes is None else faces.clear_majority(),
        voted_no_face=voted_no_face,
    )


def _keypoints(place: Path, quiet: bool) -> Survey:
    faces = read_keypoints(place, quiet=quiet)
    images, points = cut_squares(faces)
    table = f"{place.name}/labels.csv" if place.is_dir() else place.name
    return Survey(
        task="keypoints",
        rows_note=f"Rows are the data rows of {table}, counted from 1 without the header.",
        images=images,
        split=faces.split,
        rows=np.arange(1, len(faces) + 1).astype(np.str_),
        pixels=pixel_hash(images),
        # Not the file's own groups, which are people and photos, not copies. Not the framed faces either: without their
        # surroundings, faces of different people look alike.
        copies=duplicate_groups(faces.images, quiet=quiet),
        source=faces.source,
        points=points,
    )
