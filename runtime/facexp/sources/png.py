"""Animated PNGs: OpenCV crashes at many damaged ones, and ends the whole process."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from facexp.errors import SourceError

_SIGNATURE_BYTES = 8


def without_animation(data: bytes) -> bytes:
    """Return a PNG without the chunk that declares an animation: what remains is a still picture, the one in IDAT."""
    if b"acTL" not in data:
        return data
    position, kind, kept = _SIGNATURE_BYTES, b"", [data[:_SIGNATURE_BYTES]]
    while kind != b"IDAT" and position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        start, position = position, position + length + 12
        if kind != b"acTL":
            kept.append(data[start:position])
    return b"".join([*kept, data[position:]])


def check_animation(file: BinaryIO) -> None:
    """Raise SourceError for an animated PNG that ends early or has a chunk with a wrong checksum; ignore other PNGs."""
    file.seek(_SIGNATURE_BYTES)
    animated, intact, kind = False, True, b""
    while kind != b"IEND" and len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        animated = animated or kind == b"acTL"
        if kind == b"IDAT" and not animated:
            return
        checksum = zlib.crc32(file.read(length), zlib.crc32(kind))
        intact = file.read(4) == struct.pack(">I", checksum) and intact
    if animated and not (intact and kind == b"IEND"):
        raise SourceError("is damaged or cut short: a checksum of the animated PNG is wrong")
