"""Pictures as players show them, where the pixels of a clip or stream are not square, as those of DV and DVB."""

from __future__ import annotations

import cv2
import numpy as np

from facexp.geometry import Image

_MOST = 4.0


def pixel_aspect(capture: cv2.VideoCapture) -> float:
    """How many times as wide as high the pixels of its pictures are; 1 where it does not say, or names what cannot be.

    A clip that lies on its side tells it of the pixels that lie there too, while OpenCV gives its pictures upright.
    """
    width, height = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    if width <= 0 or height <= 0 or not 1 / _MOST <= width / height <= _MOST:
        return 1.0
    turned = width != height and round(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 180 == 90
    return height / width if turned else width / height


def squared(image: Image, aspect: float) -> Image:
    """The picture with square pixels: its height stays, and where the aspect is 1 so does all of it, uncopied."""
    height, width = image.shape[:2]
    shown = max(1, round(width * aspect))
    if shown == width:
        return image
    how = cv2.INTER_LINEAR if shown > width else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, (shown, height), interpolation=how), dtype=np.uint8)
