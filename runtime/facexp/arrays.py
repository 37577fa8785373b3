"""Read the .npz arrays of a bundle, and check their types and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facexp.errors import BundleError, one_line

Arrays = Mapping[str, NDArray[np.generic]]


def load_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name.

    Raises ValueError, with only the reason as its message, if the file is missing, damaged or not an .npz file.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {name: np.asarray(stored[name]) for name in stored.files}
    except OSError as error:
        raise ValueError(error.strerror or one_line(error)) from None
    except Exception as error:
        # numpy, zipfile and zlib raise many kinds of errors for damaged bytes; an .npy file loads as a plain array, for
        # which `with` fails
        raise ValueError(f"not an .npz file, or damaged: {one_line(error)}") from None


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a bundle's .npz file by name. Raises BundleError if it cannot be read."""
    try:
        return load_arrays(file)
    except ValueError as error:
        raise BundleError(f"{file}: cannot be read ({error}); export or install the bundle again") from None


def expect_array(file: Path, arrays: Arrays, name: str, dtype: str, shape: tuple[int | None, ...]) -> None:
    """Raise BundleError unless the named array has finite numbers of this dtype and shape.

    In `shape` None stands for any size above 0; `file` is named in the message.
    """
    remedy = "export or install the bundle again"
    array = arrays.get(name)
    if array is None:
        raise BundleError(f"{file}: has no {name}; {remedy}")
    fits = array.ndim == len(shape) and all(
        found > 0 if size is None else found == size for found, size in zip(array.shape, shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise BundleError(f"{file}: {name} is {array.dtype} {array.shape}, expected {dtype} ({wanted}); {remedy}")
    if not np.isfinite(array).all():
        raise BundleError(f"{file}: {name} must be finite numbers; {remedy}")
