"""A drawn colour portrait for golden.npz.

It shows no real person, so it may be published, and is similar enough to a face for the detector to find it.
"""

from __future__ import annotations

import cv2
import numpy as np

from facexp.geometry import Image

WIDTH, HEIGHT = 200, 240
_FULL = 4
"""Factor by which the drawing is larger than the result; averaging it down gives smooth edges."""

# BGR. Skin and background differ most in red and blue, so that a mix-up of these two planes shows.
_BACKGROUND, _HAIR, _SKIN, _SHADE = (150, 120, 90), (25, 35, 60), (110, 150, 215), (90, 125, 190)
_LIGHT_SKIN, _NOSTRIL, _LIP, _WHITE = (120, 160, 225), (60, 80, 130), (75, 70, 170), (235, 235, 240)
_IRIS, _PUPIL, _LID = (40, 50, 70), (10, 10, 10), (40, 50, 80)

_Shape = tuple[float, float, float, float, tuple[int, int, int], int, int, float]
"""An elliptic arc: centre x, y relative to the middle of the face, half width, half height, colour (BGR), start and end
angle in degrees, and line thickness (0: filled). Lengths are in widths of the face; later shapes cover earlier ones."""


def _eye(side: int) -> list[_Shape]:
    return [
        (side * 0.15, -0.09, 0.085, 0.05, _SHADE, 0, 360, 0),
        (side * 0.15, -0.085, 0.068, 0.03, _WHITE, 0, 360, 0),
        (side * 0.15, -0.085, 0.031, 0.031, _IRIS, 0, 360, 0),
        (side * 0.15, -0.085, 0.014, 0.014, _PUPIL, 0, 360, 0),
        (side * 0.15, -0.085, 0.07, 0.033, _LID, 190, 350, 0.012),
        (side * 0.15, -0.15, 0.095, 0.045, _HAIR, 200, 340, 0.028),
        (side * 0.055, 0.085, 0.018, 0.012, _NOSTRIL, 0, 360, 0),
    ]


_SHAPES: list[_Shape] = [
    (0, -0.1, 0.42, 0.5, _HAIR, 0, 360, 0),
    (0, 0.42, 0.2, 0.25, _SHADE, 0, 360, 0),
    (0, 0, 0.345, 0.455, _SKIN, 0, 360, 0),
    *_eye(-1),
    *_eye(1),
    (0, 0.06, 0.05, 0.05, _SHADE, 20, 160, 0.018),
    (0, 0, 0.03, 0.09, _LIGHT_SKIN, 0, 360, 0),
    (0, 0.2, 0.125, 0.05, _LIP, 0, 180, 0),
    (0, 0.2, 0.12, 0.022, _WHITE, 0, 180, 0),
    (0, 0.195, 0.13, 0.02, _LIP, 180, 360, 0.02),
]


def drawn_picture() -> Image:
    """Return the portrait, uint8 (HEIGHT, WIDTH, 3) BGR, lit from one side."""
    large = np.full((_FULL * HEIGHT, _FULL * WIDTH, 3), _BACKGROUND, np.float32)
    unit = 0.8 * _FULL * WIDTH
    for x, y, half_width, half_height, colour, start, end, line in _SHAPES:
        place = round(_FULL * WIDTH / 2 + x * unit), round(0.52 * _FULL * HEIGHT + y * unit)
        axes = round(half_width * unit), round(half_height * unit)
        thickness = round(line * unit) if line else cv2.FILLED
        cv2.ellipse(large, place, axes, 0, start, end, colour, thickness, cv2.LINE_AA)
    small = cv2.resize(large, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    light = np.linspace(0.85, 1.12, WIDTH, dtype=np.float32)[None, :, None]
    return np.asarray(np.clip(np.rint(small * light), 0, 255), np.uint8)
