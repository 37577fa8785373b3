"""Encoded pictures in requests: what a small file may cost, and the bits of the crops."""

from __future__ import annotations

import struct
import tracemalloc

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facexp.errors import SourceError
from facexp.server import pictures
from facexp.server.pictures import SCANS, crop_of, read_picture

PIXELS = 1_000_000
END = b"\xff\xd9"


def progressive() -> bytes:
    """A JPEG in a few scans."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()


def segment(marker: bytes, content: bytes) -> bytes:
    return b"\xff" + marker + struct.pack(">H", len(content) + 2) + content


def with_empty_scans(count: int) -> bytes:
    """A picture over which a decoder goes so many times more."""
    table = segment(b"\xc4", b"\x10" + bytes([1]) + bytes(15) + b"\xe0")
    # in a comment and behind a fill byte it is no end
    scan = segment(b"\xfe", END) + b"\xff" + segment(b"\xda", b"\x01\x01\x00\x01\x3f\x00") + b"\x00"
    return progressive().removesuffix(END) + table + count * scan + END


def test_a_jpeg_of_many_scans() -> None:
    """Guards the thread that decodes: a small file must not occupy it for minutes."""
    few = with_empty_scans(SCANS // 2)
    assert read_picture(few, PIXELS).shape == (64, 64, 3)
    with pytest.raises(SourceError, match=rf"^has \d+ scans: at most {SCANS} are read"):
        read_picture(with_empty_scans(SCANS), PIXELS)


def test_what_only_looks_like_scans() -> None:
    """Guards photos with a preview or a clip hung on them, whose bytes are not the picture's."""
    picture, others = progressive(), bytes(2) + b"\xff\xda\x00\x02" * 2 * SCANS
    before = picture[:2] + segment(b"\xe2", others) + picture[2:]
    for file in (before, picture + others):
        assert np.array_equal(read_picture(file, PIXELS), read_picture(picture, PIXELS))
    # to go back at each fill byte would take hours
    with pytest.raises(SourceError, match="is cut short"):
        read_picture(before.removesuffix(END) + b"\xff" * (1 << 20), PIXELS)


def whole_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """`crop_of` with the gray of all rows at once."""
    blue, green, red = (image[..., plane].astype(np.float32) for plane in range(3))
    gray = red * np.float32(0.2989) + green * np.float32(0.587) + blue * np.float32(0.114)
    small = pictures._resized_rows(pictures._resized_rows(gray, size).T, size).T
    return np.clip(np.round(small), 0, 255).astype(np.uint8)[..., None]


def test_strips_keep_the_bits() -> None:
    """Guards the crops that are made strip by strip, with a last strip of every kind: none, whole, one row."""
    random = np.random.default_rng(0)
    for height in (1, pictures._STRIP, pictures._STRIP + 1, 3 * pictures._STRIP - 5):
        image = random.integers(0, 256, (height, 331, 3), np.uint8)
        for size in (48, 96):
            assert np.array_equal(crop_of(image, size), whole_crop(image, size))


def test_a_picture_of_sixteen_bits_and_its_transparency_take_little_beside_themselves() -> None:
    """Guards the memory: 2 MB of PNG took twenty times the memory of the picture that comes out."""
    deep = np.full((4000, 500, 4), 30_000, np.uint16)
    deep[0] = 65_535
    png = cv2.imencode(".png", deep)[1].tobytes()
    tracemalloc.start()
    try:
        image = read_picture(png, 2 * 4000 * 500)
        # the picture as it is stored, and the one that comes out
        assert tracemalloc.get_traced_memory()[1] < 1.5 * (deep.nbytes + image.nbytes)
    finally:
        tracemalloc.stop()
    assert image[0].min() == 255
    # 117 of 255, through which 117 of 255 of the colour and the rest of white show
    assert np.abs(image[1:].astype(int) - (117 * 117 / 255 + 138)).max() <= 1
    with pytest.raises(SourceError, match=r"at most 1 megapixels are read"):
        read_picture(png, 2 * PIXELS)


def test_a_large_picture_takes_little_beside_itself() -> None:
    """Guards the memory: a picture that is allowed must not take several times its own."""
    image = np.zeros((4000, 500, 3), np.uint8)
    tracemalloc.start()
    try:
        crop_of(image, 48)
        # its gray as float32 is 4/3 of it
        assert tracemalloc.get_traced_memory()[1] < 2 * image.nbytes
    finally:
        tracemalloc.stop()
