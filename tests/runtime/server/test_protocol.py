"""JSON of requests: whatever cannot be an input is refused before it costs time or memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from facexp.bundle import TensorSpec
from facexp.server.errors import BadRequest, TooLarge
from facexp.server.limits import Limits
from facexp.server.models import Signature
from facexp.server.protocol import MAX_VALUES, read_body, read_input

SIGNATURE = Signature(TensorSpec("image", "uint8", (2, 2, 1)), ())
ROW = [[[0], [1]], [[254], [255]]]


def body(*rows: Any) -> bytes:
    return json.dumps({"instances": rows}).encode()


def test_numbers_become_an_array() -> None:
    """Guards the values' positions, and the memory: the parsed lists, far larger than the array, are not kept."""
    read = read_body(body(ROW, ROW[::-1]))
    array = read_input(read, SIGNATURE)
    assert array.dtype == np.uint8
    assert array.tolist() == [ROW, ROW[::-1]]
    assert read.value is None


@pytest.mark.parametrize("wrong", ["0", True, None, 0.0, -1, 256, 10**30, {}])
def test_values_that_are_no_gray_level_are_refused(wrong: Any) -> None:
    """Guards every element, including the last: nothing else is converted to a number, and none wraps around."""
    with pytest.raises(BadRequest, match="must be whole numbers from 0 to 255"):
        read_input(read_body(body(ROW, [[[0], [1]], [[254], [wrong]]])), SIGNATURE)


@pytest.mark.parametrize("row", [[ROW[0]], [*ROW, ROW[0]], [[[0], [1]], [[254], 255]], 7])
def test_rows_of_different_shapes_are_refused(row: Any) -> None:
    with pytest.raises(BadRequest, match="the rows differ in shape"):
        read_input(read_body(body(ROW, row)), SIGNATURE)


def test_a_small_body_takes_little_memory() -> None:
    """Guards against one long text among many short ones: numpy would make all of them as long as the longest."""
    data = body("a" * 10_000, *[""] * 10_000)
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="whole numbers"):
            read_input(read_body(data), SIGNATURE)
        assert tracemalloc.get_traced_memory()[1] < Limits().request_bytes
    finally:
        tracemalloc.stop()


def test_too_many_values_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the other requests, which wait while JSON is parsed."""
    # the object and the list count as two values
    fits = b'{"instances": [' + b"0," * (MAX_VALUES - 2) + b"0]}"
    assert len(read_body(fits).value) == MAX_VALUES - 1
    monkeypatch.setattr("json.loads", None)
    for more in (fits.replace(b"0,", b"0,0,", 1), fits.replace(b"0,", b"[],", 1), fits.replace(b"0,", b"{},", 1)):
        with pytest.raises(TooLarge, match=f"more than {MAX_VALUES} values"):
            read_body(more)
