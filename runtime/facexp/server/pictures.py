"""Encoded pictures in requests: bounded, decoded as the runtime does, and made into crops as the SavedModels do."""

from __future__ import annotations

import functools
import re

import numpy as np
from numpy.typing import NDArray

from facexp import photo
from facexp.errors import SourceError
from facexp.geometry import Image

FORMATS = ("JPEG", "PNG", "WebP")
"""What is read: formats whose header tells how much memory the picture will take."""
SCANS = 100
"""A JPEG of more scans is refused: each goes over the whole picture, and an empty one takes 10 bytes. Encoders write
10 or so."""

# ITU-R BT.601 as TensorFlow's rgb_to_grayscale has it: red, green, blue
_GRAY = (np.float32(0.2989), np.float32(0.587), np.float32(0.114))
_ONE, _HALF = np.float32(1), np.float32(0.5)
# so many rows at a time become gray: three planes of a large picture would take four times its memory
_STRIP = 256
# without those that no length follows, but for the end; of fill bytes before it the last is taken
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"


def read_picture(data: bytes, most: int) -> Image:
    """The bytes of a file -> BGR (H, W, 3) uint8 of at most `most` pixels, half as many where each has 16 bits.

    Raises photo.TooLargeError for more, SourceError for what is no picture in one of FORMATS; with the reason alone.
    """
    if not data:
        raise SourceError("is empty (0 bytes)")
    kind = photo.sniff(data[:64])
    if kind not in FORMATS:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise SourceError(f"is not a picture in {known}" if kind is None else f"is {kind}, not {known}")
    # the count of the two bytes is cheap, and too high only where something else is hung on the picture
    if kind == "JPEG" and data.count(b"\xff" + _START_OF_SCAN) > SCANS and (scans := _scans(data)) > SCANS:
        raise SourceError(f"has {scans} scans: at most {SCANS} are read; save it anew")
    # a PNG says so in its 25th byte; such a picture takes twice the memory while it is decoded
    deep = kind == "PNG" and data[24:25] == b"\x10"
    return photo.decode(data, kind, most=most // 2 if deep else most)


def crop_of(image: Image, size: int) -> NDArray[np.uint8]:
    """BGR (H, W, 3) uint8 -> (size, size, 1) uint8: what the SavedModel's serving_encoded makes of it, to the bit.

    Gray by TensorFlow's weights, tf.image.resize(antialias=True), rounded to even. Every sum is taken in float32 and in
    TensorFlow's order: a value near a half would else become another gray level, and the network's answer another.
    """
    gray = np.empty(image.shape[:2], np.float32)
    for start in range(0, len(image), _STRIP):
        rows = slice(start, start + _STRIP)
        blue, green, red = (image[rows, :, plane].astype(np.float32) for plane in range(3))
        gray[rows] = red * _GRAY[0] + green * _GRAY[1] + blue * _GRAY[2]
    small = _resized_rows(_resized_rows(gray, size).T, size).T
    return np.clip(np.round(small), 0, 255).astype(np.uint8)[..., None]


def _scans(jpeg: bytes) -> int:
    """How many scans a JPEG has until its end, from marker to marker as a decoder goes."""
    scans, place = 0, 2
    while (marker := _JPEG_MARKER.search(jpeg, place)) and marker[1] != _END_OF_IMAGE:
        scans += marker[1] == _START_OF_SCAN
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
    return scans


def _resized_rows(gray: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(H, W) float32 -> (size, W): linear between rows, and where it shrinks over as many more, against aliasing."""
    starts, weights = _taps(len(gray), size)
    small = np.zeros((size, gray.shape[1]), np.float32)
    for tap in range(weights.shape[1]):
        small += weights[:, tap, None] * gray[np.minimum(starts + tap, len(gray) - 1)]
    return small


@functools.lru_cache(maxsize=64)
def _taps(length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Which of `length` rows make each of `size`: the first one's number (size,), and the weights (size, taps)."""
    step = _ONE / (np.float32(size) / np.float32(length))
    reach = max(step, _ONE)
    centres = (np.arange(size, dtype=np.float32) + _HALF) * step
    starts = np.clip(np.ceil(centres - reach - _HALF), 0, length - 1).astype(np.intp)
    ends = np.clip(np.floor(centres + reach - _HALF), 0, length - 1).astype(np.intp) + 1
    columns = []
    for tap in range(int((ends - starts).max())):
        far = np.abs((starts + tap).astype(np.float32) + _HALF - centres) * (_ONE / reach)
        columns.append(np.where((far < 1) & (starts + tap < ends), _ONE - far, np.float32(0)))
    total = np.zeros(size, np.float32)
    for column in columns:
        total += column
    return starts, np.stack(columns, axis=1) * (_ONE / total)[:, None]
