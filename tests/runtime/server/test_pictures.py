"""Encoded pictures in requests: the cost of decoding a small file, and bit-exact crops."""

from __future__ import annotations

import struct
import tracemalloc

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facexp.errors import SourceError
from facexp.server import pictures
from facexp.server.pictures import MAX_SCANS, crop_of, read_picture

PIXELS = 1_000_000
END = b"\xff\xd9"


def progressive() -> bytes:
    """A JPEG in a few scans."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()


def segment(marker: bytes, content: bytes) -> bytes:
    return b"\xff" + marker + struct.pack(">H", len(content) + 2) + content


def with_empty_scans(count: int) -> bytes:
    """A JPEG with `count` empty scans added, for each of which a decoder goes over the picture again."""
    table = segment(b"\xc4", b"\x10" + bytes([1]) + bytes(15) + b"\xe0")
    # an end marker in a comment is no end, and a fill byte may come before a marker
    scan = segment(b"\xfe", END) + b"\xff" + segment(b"\xda", b"\x01\x01\x00\x01\x3f\x00") + b"\x00"
    return progressive().removesuffix(END) + table + count * scan + END


def test_a_jpeg_with_too_many_scans_is_refused() -> None:
    """Guards the decoding thread: a small file must not occupy it for minutes."""
    few = with_empty_scans(MAX_SCANS // 2)
    assert read_picture(few, PIXELS).shape == (64, 64, 3)
    with pytest.raises(SourceError, match=rf"^has \d+ scans: at most {MAX_SCANS} are read"):
        read_picture(with_empty_scans(MAX_SCANS), PIXELS)


def test_bytes_that_only_look_like_scans_are_not_counted() -> None:
    """Guards photos with an embedded preview or an appended clip, whose bytes are not the picture's."""
    picture, others = progressive(), bytes(2) + b"\xff\xda\x00\x02" * 2 * MAX_SCANS
    before = picture[:2] + segment(b"\xe2", others) + picture[2:]
    for file in (before, picture + others):
        assert np.array_equal(read_picture(file, PIXELS), read_picture(picture, PIXELS))
    # backtracking at each fill byte would take hours
    with pytest.raises(SourceError, match="is cut short"):
        read_picture(before.removesuffix(END) + b"\xff" * (1 << 20), PIXELS)


def whole_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """`crop_of`, but with the gray of all rows computed at once."""
    blue, green, red = (image[..., plane].astype(np.float32) for plane in range(3))
    gray = red * np.float32(0.2989) + green * np.float32(0.587) + blue * np.float32(0.114)
    small = pictures._resized_rows(pictures._resized_rows(gray, size).T, size).T
    return np.clip(np.round(small), 0, 255).astype(np.uint8)[..., None]


def test_strips_give_bit_identical_crops() -> None:
    """Guards crops that are made strip by strip, with every kind of last strip: none, a full one, one row."""
    random = np.random.default_rng(0)
    for height in (1, pictures._STRIP_ROWS, pictures._STRIP_ROWS + 1, 3 * pictures._STRIP_ROWS - 5):
        image = random.integers(0, 256, (height, 331, 3), np.uint8)
        for size in (48, 96):
            assert np.array_equal(crop_of(image, size), whole_crop(image, size))


def test_a_16_bit_picture_with_transparency_takes_little_extra_memory() -> None:
    """Guards the memory: 2 MB of PNG took twenty times the memory of the resulting picture."""
    deep = np.full((4000, 500, 4), 30_000, np.uint16)
    deep[0] = 65_535
    png = cv2.imencode(".png", deep)[1].tobytes()
    tracemalloc.start()
    try:
        image = read_picture(png, 2 * 4000 * 500)
        # the picture as stored, and the resulting one
        assert tracemalloc.get_traced_memory()[1] < 1.5 * (deep.nbytes + image.nbytes)
    finally:
        tracemalloc.stop()
    assert image[0].min() == 255
    # colour and alpha are 117 of 255: 117/255 of the colour shows, and the rest of white
    assert np.abs(image[1:].astype(int) - (117 * 117 / 255 + 138)).max() <= 1
    with pytest.raises(SourceError, match=r"at most 1 megapixels are read"):
        read_picture(png, 2 * PIXELS)


def test_a_large_picture_takes_little_extra_memory() -> None:
    """Guards the memory: a picture within the limit must not take several times its own size."""
    image = np.zeros((4000, 500, 3), np.uint8)
    tracemalloc.start()
    try:
        crop_of(image, 48)
        # its gray as float32 is 4/3 of its size
        assert tracemalloc.get_traced_memory()[1] < 2 * image.nbytes
    finally:
        tracemalloc.stop()
