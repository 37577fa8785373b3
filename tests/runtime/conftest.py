"""Fixtures shared by the tests of the runtime."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import facexp


@pytest.fixture(scope="session")
def analyzer(tiny_bundle: Path) -> facexp.Analyzer:
    """An Analyzer on the tiny bundle's float32 files, with one thread."""
    return facexp.Analyzer("cpu", 1, precision="float32", bundle=tiny_bundle)


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Wait until no thread reads, since the next test would take one for a hanging thread of its own."""
    from facexp.sources.live import hangs

    yield
    deadline = time.monotonic() + 60
    while hangs():
        assert time.monotonic() < deadline


@pytest.fixture(scope="session")
def elf() -> Callable[[list[str]], bytes]:
    """Return a function that makes the smallest valid 64-bit ELF file which needs the given libraries."""

    def make(needed: list[str]) -> bytes:
        texts, offsets = b"\0", []
        for name in needed:
            offsets.append(len(texts))
            texts += name.encode() + b"\0"
        # 64 bytes of header, two segments of 56, then names and table; in memory all of it lies at 0x1000
        names, base = 64 + 2 * 56, 0x1000
        entries = [(1, offset) for offset in offsets] + [(5, base + names), (0, 0)]
        table = b"".join(struct.pack("<qQ", *entry) for entry in entries)
        end = names + len(texts)
        header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
        whole = end + len(table)
        load = struct.pack("<IIQQQQQQ", 1, 4, 0, base, base, whole, whole, 0x1000)
        dynamic = struct.pack("<IIQQQQQQ", 2, 4, end, base + end, base + end, len(table), len(table), 8)
        return header + load + dynamic + texts + table

    return make
