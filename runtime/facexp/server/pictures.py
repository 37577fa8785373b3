"""Encoded pictures in requests: size limits, the runtime's decoding, and the SavedModels' conversion to crops."""

from __future__ import annotations

import functools
import re

import numpy as np
from numpy.typing import NDArray

from facexp.errors import SourceError
from facexp.geometry import Image
from facexp.sources import photo

FORMATS = ("JPEG", "PNG", "WebP")
"""The accepted formats: their headers state the size of the picture, and so how much memory it will take."""
MAX_SCANS = 100
"""Maximum number of scans of a JPEG. A decoder goes over the entire picture for each scan, and an empty scan takes only
10 bytes of the file. Encoders write about 10 scans."""

# red, green, blue: ITU-R BT.601 as in TensorFlow's rgb_to_grayscale
_GRAY = (np.float32(0.2989), np.float32(0.587), np.float32(0.114))
_ONE, _HALF = np.float32(1), np.float32(0.5)
# rows that are converted to gray at a time: three float32 planes of a large picture would take four times its memory
_STRIP_ROWS = 256
# the markers with a length field, and the end marker; of several fill bytes (0xFF) before a marker the last one matches
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"


def read_picture(data: bytes, most: int) -> Image:
    """Decode the bytes of a file to BGR (H, W, 3) uint8, with at most `most` pixels (half as many for a 16-bit PNG).

    Raises photo.TooLargeError for more pixels, SourceError for anything that is not a readable picture in one of
    FORMATS. The texts of the errors are only the reason, to be put after a name.
    """
    if not data:
        raise SourceError("is empty (0 bytes)")
    kind = photo.sniff(data[:64])
    if kind not in FORMATS:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise SourceError(f"is not a picture in {known} format" if kind is None else f"is {kind}, not {known}")
    # counting the two bytes is cheap, and overcounts only if other data is embedded in or appended to the picture
    if kind == "JPEG" and data.count(b"\xff" + _START_OF_SCAN) > MAX_SCANS and (scans := _scans(data)) > MAX_SCANS:
        raise SourceError(f"has {scans} scans: at most {MAX_SCANS} are read; save it again")
    # the 25th byte of a PNG is its bit depth; 16 bits take twice the memory while the picture is decoded
    deep = kind == "PNG" and data[24:25] == b"\x10"
    return photo.decode(data, kind, max_pixels=most // 2 if deep else most)


def crop_of(image: Image, size: int) -> NDArray[np.uint8]:
    """Convert BGR (H, W, 3) uint8 to a crop (size, size, 1) uint8, bit-identical to the SavedModel's serving_encoded.

    Gray by TensorFlow's weights, then tf.image.resize(antialias=True), rounded half to even. All sums are in float32
    and in TensorFlow's order: otherwise values near a half would round to another gray level and change the network's
    answer.
    """
    gray = np.empty(image.shape[:2], np.float32)
    for start in range(0, len(image), _STRIP_ROWS):
        rows = slice(start, start + _STRIP_ROWS)
        blue, green, red = (image[rows, :, plane].astype(np.float32) for plane in range(3))
        gray[rows] = red * _GRAY[0] + green * _GRAY[1] + blue * _GRAY[2]
    small = _resized_rows(_resized_rows(gray, size).T, size).T
    return np.clip(np.round(small), 0, 255).astype(np.uint8)[..., None]


def _scans(jpeg: bytes) -> int:
    """Count the scans of a JPEG up to its end marker, going from marker to marker as a decoder does."""
    scans, position = 0, 2
    while (marker := _JPEG_MARKER.search(jpeg, position)) and marker[1] != _END_OF_IMAGE:
        scans += marker[1] == _START_OF_SCAN
        position = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
    return scans


def _resized_rows(gray: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resize (H, W) float32 to (size, W): linear between rows, with a wider filter when shrinking (antialiasing)."""
    starts, weights = _taps(len(gray), size)
    small = np.zeros((size, gray.shape[1]), np.float32)
    for tap in range(weights.shape[1]):
        small += weights[:, tap, None] * gray[np.minimum(starts + tap, len(gray) - 1)]
    return small


@functools.lru_cache(maxsize=64)
def _taps(length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return which of `length` rows make each of `size` rows: the first one's index (size,), weights (size, taps)."""
    step = _ONE / (np.float32(size) / np.float32(length))
    reach = max(step, _ONE)
    centres = (np.arange(size, dtype=np.float32) + _HALF) * step
    starts = np.clip(np.ceil(centres - reach - _HALF), 0, length - 1).astype(np.intp)
    ends = np.clip(np.floor(centres + reach - _HALF), 0, length - 1).astype(np.intp) + 1
    columns = []
    for tap in range(int((ends - starts).max())):
        distance = np.abs((starts + tap).astype(np.float32) + _HALF - centres) * (_ONE / reach)
        columns.append(np.where((distance < 1) & (starts + tap < ends), _ONE - distance, np.float32(0)))
    total = np.zeros(size, np.float32)
    for column in columns:
        total += column
    return starts, np.stack(columns, axis=1) * (_ONE / total)[:, None]
