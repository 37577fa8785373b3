"""Fixed changes of faces that imitate other cameras, framings and lighting, to measure how much a score drops."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from facexp.geometry import warp

Images = NDArray[np.uint8]

_TURNS = 15.0
_MOVE = 0.10
_SCALES = (0.85, 1.25)


def _warped(image: Images, angle: float = 0.0, scale: float = 1.0, move: tuple[float, float] = (0.0, 0.0)) -> Images:
    """Rotate by `angle` degrees and scale about the centre, then move by parts of the side; replicate the border."""
    size = image.shape[0]
    middle = (size - 1) / 2
    turn = scale * np.array([[np.cos(a := np.deg2rad(angle)), -np.sin(a)], [np.sin(a), np.cos(a)]])
    offset = middle + size * np.array(move) - turn @ np.full(2, middle)
    return warp(image, np.column_stack([turn, offset]), size)


def _compressed(image: Images) -> Images:
    encoded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 30))[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)


def _halved(image: Images) -> Images:
    size = image.shape[0]
    small = cv2.resize(image, (size // 2, size // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _side(number: int) -> tuple[float, float]:
    """The direction of the shift for a face's number: left, right, up and down in turn."""
    return ((-_MOVE, 0.0), (_MOVE, 0.0), (0.0, -_MOVE), (0.0, _MOVE))[number % 4]


SHIFTS: Mapping[str, Callable[[Images, int], Images]] = {
    "moved by 10%": lambda image, number: _warped(image, move=_side(number)),
    "scaled by 0.85": lambda image, number: _warped(image, scale=_SCALES[0]),
    "scaled by 1.25": lambda image, number: _warped(image, scale=_SCALES[1]),
    "turned by 15 degrees": lambda image, number: _warped(image, angle=_TURNS * (-1) ** number),
    "blurred": lambda image, number: np.asarray(cv2.GaussianBlur(image, (0, 0), 1.0), dtype=np.uint8),
    "darkened": lambda image, number: np.asarray(np.rint(image * 0.4), dtype=np.uint8),
    "JPEG 30": lambda image, number: _compressed(image),
    "half the resolution": lambda image, number: _halved(image),
}
"""By name, a function of one uint8 (S, S) face and its number in the set that returns the changed face.

Blurred: by a Gaussian with a standard deviation of 1 px. Darkened: to 40% of the gray values. JPEG 30: compressed at
quality 30.
"""


def shifted(images: Images, name: str) -> Images:
    """Return uint8 (N, S, S) faces, each changed by SHIFTS[name]."""
    return np.stack([SHIFTS[name](image, number) for number, image in enumerate(images)])
