"""Find the shared libraries that a library needs and those that this machine cannot load, without external tools."""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterable
from pathlib import Path

# names and numbers as in the ELF specification and elf.h
_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian: x86-64 and 64-bit ARM
_HEADER = struct.Struct("<16x HHIQQQIHHH")
_SEGMENT = struct.Struct("<IIQQQQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_ENTRY = struct.Struct("<qQ")
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5


def needed(library: Path) -> tuple[str, ...]:
    """The libraries that a 64-bit little-endian ELF file lists as needed (DT_NEEDED), in the order of the file.

    Raises OSError when the file cannot be read, ValueError when it is not such a file or is damaged.
    """
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[: len(_MAGIC)] != _MAGIC:
            raise ValueError(f"{library}: not a 64-bit little-endian ELF file")
        try:
            return _needed(content)
        except (struct.error, StopIteration) as error:
            raise ValueError(f"{library}: a damaged ELF file") from error


def missing(names: Iterable[str]) -> tuple[str, ...]:
    """The libraries that cannot be loaded, without duplicates.

    If a library exists but needs another one that is missing, the name of the missing one is given instead.
    """
    unloadable = []
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            # "libcublasLt.so.13: cannot open shared object file: No such file or directory"
            unloadable.append(str(error).partition(":")[0])
    return tuple(dict.fromkeys(unloadable))


def _needed(content: mmap.mmap) -> tuple[str, ...]:
    *_, table, _, _, _, size, count = _HEADER.unpack_from(content)
    segments = [_SEGMENT.unpack_from(content, table + index * size) for index in range(count)]
    start, length = next((offset, length) for kind, _, offset, _, _, length in segments if kind == _PT_DYNAMIC)
    entries = []
    for tag, value in _ENTRY.iter_unpack(content[start : start + length - length % _ENTRY.size]):
        if tag == _DT_NULL:
            break
        entries.append((tag, value))
    address = next(value for tag, value in entries if tag == _DT_STRTAB)
    # the string table is given by its address in memory; the segment that holds it gives its offset in the file
    names = next(
        address - virtual_address + offset
        for kind, _, offset, virtual_address, _, length in segments
        if kind == _PT_LOAD and virtual_address <= address < virtual_address + length
    )
    return tuple(_text(content, names + value) for tag, value in entries if tag == _DT_NEEDED)


def _text(content: mmap.mmap, start: int) -> str:
    return content[start : content.find(b"\0", start)].decode()
