"""The recipe of an export: the files to write, the faces to use, and the limits to keep, as a TOML file.

The complete recipe is stored in the bundle, next to the result.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from facexp.bundle import KEYS
from facexp_export.errors import ExportError
from facexp_train.data.splits import SPLITS
from facexp_train.errors import DataError
from facexp_train.stored import read_toml

METHODS = ("MinMax", "Percentile", "Entropy")
"""Calibration methods of onnxruntime's quantizer."""
PRECISIONS = ("float32", "float16", "int8")
"""From the most exact to the least."""
MIN_CALIBRATION_FACES = 512
"""Minimum number of calibration faces."""
MIN_PARITY_CROPS = 512
"""Minimum number of crops for comparing a file with the trained model."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The faces from which the quantization ranges are measured."""

    split: str
    faces: int
    method: str
    """One of METHODS, for ONNX only: TFLite's ranges always go from the smallest to the largest value seen."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The faces on which the files are verified."""

    split: str
    faces: int


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Largest allowed differences of outputs from those of Keras and, on another machine, from the golden answers."""

    float32_spread: float
    """Largest difference of a float32 file, over the output's spread across faces."""
    why: str
    """The reason for that figure."""
    float16_mean_spread: float
    """Mean difference of a float16 file, over the same spread."""
    float16_why: str
    """The reason for that figure."""
    rounded_mean_spread: float
    """Mean difference of an int8 file, over the same spread."""
    rounded_why: str
    """The reason for that figure."""
    golden: dict[str, float]
    """Precision -> largest difference from a golden answer, in pixels of the crop for points, in logits for emotion."""


@dataclass(frozen=True, slots=True)
class Margins:
    """Largest allowed loss of a file against the network's most exact file: a limit for the pessimistic end of a 95%
    interval."""

    accuracy_points: float
    """Loss of accuracy in percentage points."""
    rmse_px: float
    """Increase of the RMSE in pixels of the crop."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All options of an export."""

    name: str
    """Name of the bundle; if empty, the name of its directory is used."""
    calibration: Calibration
    verification: Verification
    keys: tuple[str, ...]
    """Keys of the files to write: a subset of facexp.bundle.KEYS, in that order."""
    tolerances: Tolerances
    margins: Margins

    def text(self) -> str:
        """Return the complete recipe as TOML; `read_recipe` gives an equal recipe."""
        tables = {**asdict(self), "bundle": {"name": self.name}, "files": {"keys": list(self.keys)}}
        del tables["keys"], tables["name"]
        tables["tolerances.golden"] = tables["tolerances"].pop("golden")
        return "\n".join(
            f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())
            for name, table in sorted(tables.items())
        )


def _toml(value: Any) -> str:
    # Finite numbers, strings and lists of strings have the same syntax in JSON and TOML, with two exceptions: TOML has
    # no escaped surrogate pairs, hence ensure_ascii=False, and requires DEL to be escaped, which JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")


def read_recipe(file: Path | None = None) -> Recipe:
    """Read recipes/default.toml, with the settings of `file` instead of its own where `file` has them.

    Raises ExportError that names file and key if a key is unknown, or a value has the wrong type or is out of range.
    """
    default = Path(str(resources.files("facexp_export"))) / "recipes" / "default.toml"
    values = _read(default)
    if file is not None:
        _merge(values, _read(file), f"{file}: ")
    return _recipe(values, f"{file or default}: ")


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_toml(file)
    except DataError as error:
        raise ExportError(str(error)) from error


def _merge(values: dict[str, Any], changes: dict[str, Any], origin: str) -> None:
    """Put `changes` into `values`, in place; ExportError for a key that `values` lacks or a value of another type."""
    for key, change in changes.items():
        if key not in values:
            raise ExportError(f"{origin}{key} is unknown; expected one of {', '.join(values)}")
        old = values[key]
        number = isinstance(old, (int, float))
        right = isinstance(change, (int, float)) if number else isinstance(change, type(old))
        if isinstance(change, bool) or not right or (isinstance(old, int) and not isinstance(change, int)):
            wanted = "a whole number" if isinstance(old, int) else "a number" if number else _NAMES[type(old)]
            raise ExportError(f"{origin}{key} must be {wanted}, got {change!r}")
        if isinstance(old, dict):
            _merge(old, change, f"{origin}{key}.")
        else:
            values[key] = change


_NAMES: dict[type, str] = {dict: "a table", list: "a list", str: "a text"}


def _is_limit(value: float) -> bool:
    return 0 < value <= sys.float_info.max


def _recipe(values: dict[str, Any], origin: str) -> Recipe:
    def expect(key: str, good: Callable[[Any], bool], wanted: str) -> None:
        value: Any = values
        for name in key.split("."):
            value = value[name]
        if not good(value):
            raise ExportError(f"{origin}{key} must be {wanted}, got {value!r}")

    for table in ("calibration", "verification"):
        expect(f"{table}.split", lambda split: split in SPLITS, f"one of {', '.join(SPLITS)}")
    expect("calibration.faces", lambda faces: faces >= MIN_CALIBRATION_FACES, f"{MIN_CALIBRATION_FACES} or more")
    expect("verification.faces", lambda faces: faces >= MIN_PARITY_CROPS, f"{MIN_PARITY_CROPS} or more")
    other = values["calibration"]["split"]
    expect("verification.split", lambda split: split != other, f"another split than calibration's, {other}")
    expect("calibration.method", lambda method: method in METHODS, f"one of {', '.join(METHODS)}")
    keys = values["files"]["keys"]
    expect("files.keys", lambda _: keys and all(key in KEYS for key in keys), f"some of {', '.join(KEYS)}")
    if all(key.startswith("int8") for key in keys):
        raise ExportError(
            f"{origin}files.keys must hold a float32 or float16 file besides the int8 ones, which are compared with "
            f"it, got {keys!r}"
        )
    limits = [f"tolerances.{name}" for name in ("float32_spread", "float16_mean_spread", "rounded_mean_spread")]
    for limit in (*limits, "margins.accuracy_points", "margins.rmse_px"):
        expect(limit, _is_limit, "finite and more than 0")
    for precision in PRECISIONS:
        expect(f"tolerances.golden.{precision}", _is_limit, "finite and more than 0")
    return Recipe(
        values["bundle"]["name"],
        Calibration(**values["calibration"]),
        Verification(**values["verification"]),
        tuple(key for key in KEYS if key in keys),
        Tolerances(**values["tolerances"]),
        Margins(**values["margins"]),
    )
