"""FER+'s votes on FER2013's faces, in a file of their own with one row for each row of FER2013's file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp_train.data import tables
from facexp_train.errors import DataError

VOTES_NAME = "fer2013new.csv"
VOTES: tuple[str, ...] = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",
)
"""The ten columns of votes, in the order of FER+'s file; NF means "not a face"."""


def find_votes(path: Path) -> Path | None:
    """FER+'s file next to a CSV file, None if there is none."""
    file = path.parent / VOTES_NAME
    return file if file.is_file() else None


def read_votes(path: Path, faces: Path, usage: NDArray[np.str_], count: int) -> NDArray[np.float32]:
    """float32 (N, 10) votes in the order of VOTES, checked to match the `count` (N) rows of the file `faces`.

    `usage` is the column Usage of that file, empty if it has none. DataError with file, row and column if the numbers
    of rows or the columns Usage differ, votes are negative, or rows are not in the order of the faces.
    """
    votes: list[NDArray[np.float64]] = []
    usages: list[str] = []
    names: list[str] = []
    for row, columns in tables.chunks(path, VOTES, quiet=True):
        votes.append(np.stack([tables.numbers(columns[name], path, row, name) for name in VOTES], axis=1))
        usages.extend(columns.get("Usage", []))
        names.extend(columns.get("Image name", []))
    ballots = np.concatenate(votes)
    if len(ballots) != count:
        raise DataError(
            f"{path}: {len(ballots)} rows of votes, but {faces} has {count} faces; expected a row for each face"
        )
    if (negative := np.argwhere(ballots < 0)).size:
        row, column = negative[0]
        raise DataError(f"{path}: row {row + 1}, column {VOTES[column]}: expected votes of 0 or more")
    if usages and usage.size and (different := np.flatnonzero(np.array(usages) != usage)).size:
        row = different[0]
        raise DataError(
            f"{path}: row {row + 1}, column Usage: expected {usage[row]!s} as in {faces}, found {usages[row]!r}"
        )
    _check_order(names, path)
    return ballots.astype(np.float32)


def _check_order(names: list[str], path: Path) -> None:
    """Raise DataError if the rows are not in the order of FER2013's file.

    FER+ names each face by its row in that file, fer0000000.png and so on. In files with augmented copies of faces a
    copy repeats the name of its face, so only the first row with a name is checked.
    """
    last, seen = -1, set[int]()
    for row, name in enumerate(names, 1):
        if (found := re.fullmatch(r"fer(\d+)\.png", name)) is None or (number := int(found[1])) in seen:
            continue
        if number < last:
            raise DataError(
                f"{path}: row {row}, column Image name: {name} comes after fer{last:07d}.png; votes must be "
                "in the order of their faces: sort the rows by Image name"
            )
        last = number
        seen.add(number)
