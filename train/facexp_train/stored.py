"""Files of a run directory and of its configuration: written atomically, with one-line errors if one is damaged."""

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
    """Write arrays by name to a .npz file, with an atomic rename."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path, remedy: str) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file by name; DataError, which ends with `remedy`, if the file is damaged."""
    try:
        return load_arrays(path)
    except ValueError as error:
        raise damaged(path, error, remedy) from None


def read_facts(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file; DataError, which ends with `remedy`, if the file is missing or damaged."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; {remedy}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error, remedy) from error
    if not isinstance(facts, dict):
        raise damaged(path, "not an object", remedy)
    return facts


def read_summary(run: Path) -> dict[str, Any]:
    """The facts about a finished run, from its summary.json; DataError if the file is missing or damaged."""
    return read_facts(run / "summary.json", "`facexp train` with --resume writes it again")


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file that a user wrote; DataError if it cannot be read as TOML."""
    try:
        # Notepad on Windows may start a file with a byte order mark
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as TOML: {error}") from error


def damaged(path: Path, reason: object, remedy: str) -> DataError:
    """The error for a file that cannot be read, in one line; `remedy` says what to do."""
    return DataError(f"{path}: cannot be read ({' '.join(str(reason).split())}); {remedy}")
