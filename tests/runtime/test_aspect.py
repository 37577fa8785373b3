"""Pixels that are not square: pictures are as players show them, in clips and behind addresses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facexp.sources.aspect import pixel_aspect, squared
from facexp.sources.capture import VideoCapture
from facexp.sources.clip import Clip


class Claims:
    """A capture that says these things of itself, and 0 to all else that it is asked."""

    def __init__(self, width: float, height: float, turned: float = 0) -> None:
        self.said = {cv2.CAP_PROP_SAR_NUM: width, cv2.CAP_PROP_SAR_DEN: height, cv2.CAP_PROP_ORIENTATION_META: turned}

    def get(self, what: int) -> float:
        return self.said.get(what, 0.0)


@pytest.mark.parametrize(
    ("claims", "aspect"),
    [
        (Claims(16, 15), 16 / 15),
        (Claims(8, 9), 8 / 9),
        (Claims(4, 3, turned=90), 3 / 4),
        (Claims(4, 3, turned=270), 3 / 4),
        (Claims(4, 3, turned=180), 4 / 3),
        # square, unknown, unheard of, and what cannot be
        *((claims, 1.0) for claims in (Claims(1, 1), Claims(0, 1), Claims(-1, -1), Claims(1, 0), Claims(5, 1))),
    ],
)
def test_what_a_capture_says_of_its_pixels(claims: Claims, aspect: float) -> None:
    """Guards also clips on their side, whose pixels lie with them."""
    assert pixel_aspect(claims) == pytest.approx(aspect)  # type: ignore[arg-type]


def test_square_pixels_are_not_copied() -> None:
    """Guards the speed of nearly all clips."""
    image = np.zeros((48, 64, 3), np.uint8)
    assert squared(image, 1.0) is image
    assert squared(image, 1.001) is image


@pytest.mark.parametrize(("pixels", "width"), [("4:3", 85), ("1:2", 32), ("1:1", 64), ("0:0", 64)])
def test_pictures_have_their_display_width(tmp_path: Path, pixels: str, width: int) -> None:
    """Guards DV, HDV and DVB, whose faces would be pressed: a clip and a stream, in the whole way through OpenCV."""
    path = tmp_path / "x.y4m"
    ramp = bytes(range(0, 256, 4)) * 48
    head = f"YUV4MPEG2 W64 H48 F25:1 Ip A{pixels} C420jpeg\n".encode()
    path.write_bytes(head + b"".join(b"FRAME\n" + ramp + bytes([chroma]) * (64 * 24) for chroma in (126, 128, 130)))
    stream = VideoCapture(f"file://{path}", 10.0)
    assert stream.grab()
    shown = stream.retrieve()
    stream.close()
    assert shown is not None
    read: list[NDArray[np.uint8]] = [image for _, _, image in Clip(path, "Y4M").frames()]
    assert len(read) == 3
    for image in (*read, shown):
        assert image.shape == (48, width, 3)
        # nothing is cut off
        assert image[:, 0].mean() < 10
        assert image[:, -1].mean() > 245
