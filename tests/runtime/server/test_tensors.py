"""Tensors of requests as arrays: short forms, and the memory that they take."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from facexp.bundle import TensorSpec
from facexp.server.errors import BadRequest
from facexp.server.messages import message
from facexp.server.tensors import read_tensor

SPEC = TensorSpec("image", "uint8", (48, 48, 1))


def tensor(rows: int, *values: int) -> Any:
    made = message("TensorProto")(dtype=4, int_val=values)
    for size in (rows, 48, 48, 1):
        made.tensor_shape.dim.add(size=size)
    return made


def test_the_last_value_fills_the_rest() -> None:
    """Guards the short form: the last value stands for those that follow, and takes a byte each."""
    count = 100 * 48 * 48
    tracemalloc.start()
    try:
        array = read_tensor(tensor(100, 9, 7), "image", SPEC, count)
        # the array, and a copy while it is made
        assert tracemalloc.get_traced_memory()[1] < 3 * count
    finally:
        tracemalloc.stop()
    assert (array.shape, array[0, 0, 0, 0], set(array.ravel()[1:].tolist())) == ((100, 48, 48, 1), 9, {7})


@pytest.mark.parametrize(
    ("values", "says"),
    [((), "0 values for 2304"), ((256,), "from 0 to 255"), ((-1,), "from 0 to 255"), ((0,) * 2305, "2305 values for")],
)
def test_values_that_make_no_array_are_refused(values: tuple[int, ...], says: str) -> None:
    """Guards the numbers: none is cut to a byte, none is dropped."""
    with pytest.raises(BadRequest, match=says):
        read_tensor(tensor(1, *values), "image", SPEC, 1 << 20)
