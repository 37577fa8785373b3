"""Pixels that are not square: pictures have the shape that players show, in clips and in streams."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facexp.sources.aspect import pixel_aspect, squared
from facexp.sources.capture import VideoCapture
from facexp.sources.clip import Clip


class FakeCapture:
    """A capture with these properties, and 0 for all others."""

    def __init__(self, width: float, height: float, rotation: float = 0) -> None:
        self.properties = {
            cv2.CAP_PROP_SAR_NUM: width,
            cv2.CAP_PROP_SAR_DEN: height,
            cv2.CAP_PROP_ORIENTATION_META: rotation,
        }

    def get(self, property_id: int) -> float:
        return self.properties.get(property_id, 0.0)


@pytest.mark.parametrize(
    ("capture", "aspect"),
    [
        (FakeCapture(16, 15), 16 / 15),
        (FakeCapture(8, 9), 8 / 9),
        (FakeCapture(4, 3, rotation=90), 3 / 4),
        (FakeCapture(4, 3, rotation=270), 3 / 4),
        (FakeCapture(4, 3, rotation=180), 4 / 3),
        # square, unknown, negative, and values that are impossible
        *(
            (capture, 1.0)
            for capture in (
                FakeCapture(1, 1),
                FakeCapture(0, 1),
                FakeCapture(-1, -1),
                FakeCapture(1, 0),
                FakeCapture(5, 1),
            )
        ),
    ],
)
def test_the_pixel_aspect_is_that_of_the_capture(capture: FakeCapture, aspect: float) -> None:
    """Guards also clips that are rotated by 90 degrees, whose pixels are rotated with them."""
    assert pixel_aspect(capture) == pytest.approx(aspect)  # type: ignore[arg-type]


def test_square_pixels_are_not_copied() -> None:
    """Guards the speed of almost all clips."""
    image = np.zeros((48, 64, 3), np.uint8)
    assert squared(image, 1.0) is image
    assert squared(image, 1.001) is image


@pytest.mark.parametrize(("pixels", "width"), [("4:3", 85), ("1:2", 32), ("1:1", 64), ("0:0", 64)])
def test_pictures_have_their_display_width(tmp_path: Path, pixels: str, width: int) -> None:
    """Guards DV, HDV and DVB, whose faces would be squeezed: a clip and a stream, all the way through OpenCV."""
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
