"""JSON of requests: what cannot be an input is refused before it costs time or memory."""

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
from facexp.server.protocol import VALUES, read_body, read_input

SIGNATURE = Signature(TensorSpec("image", "uint8", (2, 2, 1)), ())
ROW = [[[0], [1]], [[254], [255]]]


def body(*rows: Any) -> bytes:
    return json.dumps({"instances": rows}).encode()


def test_numbers() -> None:
    """Guards the values' places, and the memory: the lists, many times as large as the array, are not kept."""
    read = read_body(body(ROW, ROW[::-1]))
    array = read_input(read, SIGNATURE)
    assert array.dtype == np.uint8
    assert array.tolist() == [ROW, ROW[::-1]]
    assert read.value is None


@pytest.mark.parametrize("wrong", ["0", True, None, 0.0, -1, 256, 10**30, {}])
def test_what_is_no_gray_level(wrong: Any) -> None:
    """Guards every element, the last one too: nothing is taken for a number that is none, or wraps round."""
    with pytest.raises(BadRequest, match="must be whole numbers from 0 to 255"):
        read_input(read_body(body(ROW, [[[0], [1]], [[254], [wrong]]])), SIGNATURE)


@pytest.mark.parametrize("row", [[ROW[0]], [*ROW, ROW[0]], [[[0], [1]], [[254], 255]], 7])
def test_rows_that_differ(row: Any) -> None:
    """Guards the shape of every row."""
    with pytest.raises(BadRequest, match="the rows differ in shape"):
        read_input(read_body(body(ROW, row)), SIGNATURE)


def test_a_small_body_takes_little_memory() -> None:
    """Guards against one long text among many short ones, of which numpy would make an array of long ones."""
    data = body("a" * 10_000, *[""] * 10_000)
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="whole numbers"):
            read_input(read_body(data), SIGNATURE)
        assert tracemalloc.get_traced_memory()[1] < Limits().request_bytes
    finally:
        tracemalloc.stop()


def test_how_many_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the other requests, which wait while JSON is read: more values are refused unread."""
    # an object and a list are two
    fits = b'{"instances": [' + b"0," * (VALUES - 2) + b"0]}"
    assert len(read_body(fits).value) == VALUES - 1
    monkeypatch.setattr("json.loads", None)
    for more in (fits.replace(b"0,", b"0,0,", 1), fits.replace(b"0,", b"[],", 1), fits.replace(b"0,", b"{},", 1)):
        with pytest.raises(TooLarge, match=f"more than {VALUES} values"):
            read_body(more)
