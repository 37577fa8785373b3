"""The arrays that a bundle keeps beside its models, and what they must be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facexp.errors import BundleError, one_line

Arrays = Mapping[str, NDArray[np.generic]]


def load_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by name; ValueError, the reason alone, where it is missing, damaged or something else."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {name: np.asarray(stored[name]) for name in stored.files}
    except OSError as error:
        raise ValueError(error.strerror or one_line(error)) from None
    except Exception as error:
        # numpy, zipfile and zlib have errors of every kind for damaged bytes; a file of one array is no file of several
        raise ValueError(f"it is no .npz, or damaged: {one_line(error)}") from None


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a bundle's .npz by name; BundleError where it cannot be read."""
    try:
        return load_arrays(file)
    except ValueError as error:
        raise BundleError(f"{file}: cannot be read ({error}); export or install the bundle again") from None


def expect(file: Path, arrays: Arrays, name: str, dtype: str, shape: tuple[int | None, ...]) -> None:
    """BundleError unless that array of a file has finite numbers of that type and shape; None is any size but 0."""
    again = "export or install the bundle again"
    array = arrays.get(name)
    if array is None:
        raise BundleError(f"{file}: has no {name}; {again}")
    fits = array.ndim == len(shape) and all(
        found > 0 if size is None else found == size for found, size in zip(array.shape, shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise BundleError(f"{file}: {name} is {array.dtype} {array.shape}, expected {dtype} ({wanted}); {again}")
    if not np.isfinite(array).all():
        raise BundleError(f"{file}: {name} must be finite numbers; {again}")
