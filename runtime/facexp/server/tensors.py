"""Conversion between arrays and TensorFlow's TensorProto messages, for the three types that are served."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facexp.bundle import TensorSpec
from facexp.server.errors import BadRequest, TooLarge
from facexp.server.messages import message

Array = NDArray[Any]
"""uint8 or float32; strings and files are an object array whose elements are bytes."""

BYTES = "bytes"
"""The dtype of strings and files in a TensorSpec."""
DTYPES = {"float32": ("DT_FLOAT", 1), "uint8": ("DT_UINT8", 4), BYTES: ("DT_STRING", 7)}
"""The name and the number of each dtype in TensorFlow."""

_NAMES = {number: name for name, number in DTYPES.values()} | {
    number: f"DT_{name}"
    for number, name in {2: "DOUBLE", 3: "INT32", 5: "INT16", 6: "INT8", 9: "INT64", 10: "BOOL", 19: "HALF"}.items()
}

_TensorProto = message("TensorProto")


def check_shape(name: str, spec: TensorSpec, shape: tuple[int, ...]) -> None:
    """Raise BadRequest unless the shape of the input `name` is (N, *spec.row) with N at least 1."""
    if len(shape) != len(spec.row) + 1 or shape[1:] != spec.row or shape[0] < 1:
        wanted = ", ".join(["N", *map(str, spec.row)])
        raise BadRequest(f"input {name}: the shape must be ({wanted}), got ({', '.join(map(str, shape))})")


def read_tensor(tensor: Any, name: str, spec: TensorSpec, most: int) -> Array:
    """Convert a TensorProto to the array that the spec describes.

    Raises BadRequest if it does not match, TooLarge if it has more than `most` elements.
    """
    wanted, number = DTYPES[spec.dtype]
    if tensor.dtype != number:
        got = _NAMES.get(tensor.dtype, f"type {tensor.dtype}")
        raise BadRequest(f"input {name}: must be {wanted}, got {got}")
    shape = tuple(int(dim.size) for dim in tensor.tensor_shape.dim)
    check_shape(name, spec, shape)
    count = math.prod(shape)
    if count > most:
        # a single value may fill all elements, so that a short message can request a huge array
        raise TooLarge(f"input {name}: {count} elements are more than the {most} that a request may have")
    if spec.dtype == BYTES:
        return _reshaped(name, np.array(list(tensor.string_val), dtype=object), shape)
    if tensor.tensor_content:
        if len(tensor.tensor_content) != count:
            raise BadRequest(f"input {name}: {len(tensor.tensor_content)} bytes of content for {count} elements")
        return np.frombuffer(tensor.tensor_content, np.uint8).reshape(shape)
    if len(tensor.int_val) > count:
        raise BadRequest(f"input {name}: {len(tensor.int_val)} values for {count} elements")
    values = np.array(tensor.int_val, np.int32)
    if len(values) and not 0 <= values.min() <= values.max() <= 255:
        raise BadRequest(f"input {name}: the values must be from 0 to 255")
    values = values.astype(np.uint8)
    if 0 < len(values) < count:
        # by TensorFlow's convention the last value fills the remaining elements
        values = np.pad(values, (0, count - len(values)), mode="edge")
    return _reshaped(name, values, shape)


def _reshaped(name: str, values: Array, shape: tuple[int, ...]) -> Array:
    if len(values) != math.prod(shape):
        raise BadRequest(f"input {name}: {len(values)} values for {math.prod(shape)} elements")
    return values.reshape(shape)


def write_tensor(array: Array) -> Any:
    """Convert an array of float32 or of bytes to a TensorProto."""
    name = BYTES if array.dtype == object else array.dtype.name
    tensor = _TensorProto(dtype=DTYPES[name][1])
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if name == BYTES:
        tensor.string_val.extend(array.ravel().tolist())
    else:
        # not tensor_content: clients without TensorFlow read float_val, which TensorFlow Serving fills
        tensor.float_val.extend(array.ravel().tolist())
    return tensor
