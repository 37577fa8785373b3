"""Show pictures as players do if the pixels of a clip or stream are not square, as in DV and DVB."""

from __future__ import annotations

import cv2
import numpy as np

from facexp.geometry import Image

_MAX_ASPECT = 4.0


def pixel_aspect(capture: cv2.VideoCapture) -> float:
    """Return the pixels' width over their height; 1 if it is unknown or not between 1/4 and 4.

    The metadata of a clip that is stored rotated by 90 degrees describes the stored pixels. OpenCV returns upright
    pictures, for which the ratio is inverted.
    """
    width, height = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    if width <= 0 or height <= 0 or not 1 / _MAX_ASPECT <= width / height <= _MAX_ASPECT:
        return 1.0
    rotated = width != height and round(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 180 == 90
    return height / width if rotated else width / height


def squared(image: Image, aspect: float) -> Image:
    """Return the picture scaled to square pixels. Its height stays; if its width does too, it is not copied."""
    height, width = image.shape[:2]
    shown_width = max(1, round(width * aspect))
    if shown_width == width:
        return image
    interpolation = cv2.INTER_LINEAR if shown_width > width else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, (shown_width, height), interpolation=interpolation), dtype=np.uint8)
