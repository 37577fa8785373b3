"""What the labels of a dataset mean: FER2013's codes, folder names, or the definitions in a labels file."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facexp.labels import FIVE, SEVEN
from facexp_train.data import tables
from facexp_train.errors import DataError
from facexp_train.stored import read_toml

NAME = "labels.toml"
"""Name of the labels file in a folder of images; next to faces.csv it is faces.labels.toml."""

LEFT_OUT = ""
"""Takes the place of the class of a face that is not to be read."""

_KEYS = ("classes", "names", "leave_out")
_SYNONYMS = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happiness": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a dataset, and the texts that denote them in the data."""

    names: tuple[str, ...]
    """In the order of their codes, which is the order of a network's outputs."""
    meaning: dict[str, str]
    """`folded` text of the data -> one of `names`, or LEFT_OUT."""

    def named(self, texts: Sequence[str], path: Path, row: int, column: str) -> list[str]:
        """Return the class of each text, or LEFT_OUT; DataError reports the first unknown one (see tables.choices)."""
        return tables.choices([folded(text) for text in texts], self.meaning, path, row, column)


def folded(text: str) -> str:
    """Return a text of the data for `Classes.meaning`: in lower case, and in one form where Unicode has two.

    macOS writes the names of folders with accents as characters of their own, which look the same.
    """
    return unicodedata.normalize("NFC", text).lower()


FOLDERS = Classes(SEVEN, {**{name: name for name in SEVEN}, **_SYNONYMS})
"""Classes of folders of images without a labels file."""
CODES = Classes(SEVEN, {str(code): name for code, name in enumerate(SEVEN)})
"""Classes of FER2013's CSV files."""
FIVE_CODES = Classes(FIVE, {str(code): name for code, name in enumerate(FIVE)})
"""Classes of the five-class set's CSV file."""


def read_classes(data: Path) -> Classes | None:
    """Read the labels file in a folder of images or next to a CSV file; None if there is none.

    The file is TOML. `classes` lists the classes in the order of the network's outputs; without it they are facexp's
    seven. `[names]` maps texts of the data (a folder's name, or a cell of the column `emotion`) to classes, ignoring
    case; a class's own name needs no entry. Faces whose text is in `leave_out` are not read. Raises DataError with file
    and key.
    """
    path = data / NAME if data.is_dir() else data.with_suffix(f".{NAME}")
    if not path.is_file():
        return None
    values = read_toml(path)
    if unknown := [key for key in values if key not in _KEYS]:
        raise DataError(f"{path}: {unknown[0]} is unknown; expected {', '.join(_KEYS)}")
    classes = checked(values.get("classes", list(SEVEN)), f"{path}: classes")
    meaning = {folded(name): name for name in classes}
    if classes == SEVEN:
        meaning |= _SYNONYMS
    for text, name in _table(values.get("names", {}), path).items():
        if name not in classes:
            raise DataError(f"{path}: names.{text} must be one of {', '.join(classes)}, got {name!r}")
        meaning[folded(text)] = name
    left_out = values.get("leave_out", [])
    if not isinstance(left_out, list) or not all(isinstance(text, str) for text in left_out):
        raise DataError(f"{path}: leave_out must be a list of strings, got {left_out!r}")
    return Classes(classes, meaning | {folded(text): LEFT_OUT for text in left_out})


def checked(classes: object, origin: str) -> tuple[str, ...]:
    """Check that `classes` are two or more different names, as a bundle's manifest requires, and return them.

    The seven emotions are returned in their standard order. The message of DataError begins with `origin`.
    """
    good = isinstance(classes, (list, tuple)) and all(
        isinstance(name, str) and name.isprintable() and name.strip() for name in classes
    )
    if not good or not isinstance(classes, (list, tuple)) or len({folded(name) for name in classes}) < len(classes):
        raise DataError(f"{origin} must be a list of different names, got {classes!r}")
    if len(classes) < 2:
        raise DataError(f"{origin} must be two or more, got {classes!r}")
    return SEVEN if set(classes) == set(SEVEN) else tuple(classes)


def _table(names: object, path: Path) -> dict[str, Any]:
    if not isinstance(names, dict):
        raise DataError(f"{path}: names must be a table of texts and classes, got {names!r}")
    return names
