"""Files of a run directory and of its configuration: written whole, and one line about those that cannot be read."""

from __future__ import annotations

import io
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facexp.arrays import load_arrays
from facexp.files import write_atomically
from facexp_train.errors import DataError


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write a .npz file beside and rename it."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path, mend: str) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file by name; DataError, which ends with what to do, where it is damaged."""
    try:
        return load_arrays(path)
    except ValueError as error:
        raise damaged(path, error, mend) from None


def read_facts(path: Path, mend: str) -> dict[str, Any]:
    """The object of a JSON file; DataError, which ends with what to do, where it is damaged."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, error, mend) from error
    if not isinstance(facts, dict):
        raise damaged(path, "not an object", mend)
    return facts


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a file that a person wrote; DataError where it is not TOML."""
    try:
        # Windows' Notepad begins a file with a byte order mark
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as TOML: {error}") from error


def damaged(path: Path, reason: object, mend: str) -> DataError:
    """The line about a file that cannot be read."""
    return DataError(f"{path}: cannot be read ({' '.join(str(reason).split())}); {mend}")
