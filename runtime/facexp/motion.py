"""Detect changes in a video on a small gray copy of each frame: another scene, another face, or a newcomer."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from facexp.detector import Box
from facexp.geometry import Image

_MAX_SIDE = 96
# mean change per pixel in gray levels, after each frame's median brightness is subtracted: two different photos differ
# by more than 20, motion in the sample clips stays below 8, but turning the camera can change as much as another scene
_SCENE_CHANGE = 20.0
# mean change per cell of the grid below, in gray levels: a face differs from itself 0.2 s later by at most 9, from
# other faces by more than 15 in 99% of pairs and by more than 20 in 97% (docs/experiments.md)
_MAX_SAME_FACE_CHANGE = 20.0
_MAX_SAME_FACE_CHANGE_AFTER_CUT = 15.0
# a newcomer is a block of 3x3 pixels that all changed by more than 15 gray levels: as large as the smallest face that
# the detector finds
_BLOCK_SIDE = 3
_PIXEL_CHANGE = 15.0
# a face is compared as a grid of 4x4 cells
_GRID = 4


Appearance = NDArray[np.float32]
"""The appearance of a box: float32 (4, 4) gray levels, minus the frame's median brightness."""


def differ(before: Appearance, now: Appearance, cut: bool = False) -> bool:
    """Return whether two boxes show different things; `cut`: the scene may have changed between the two frames."""
    return float(np.abs(now - before).mean()) > (_MAX_SAME_FACE_CHANGE_AFTER_CUT if cut else _MAX_SAME_FACE_CHANGE)


class Motion:
    """Compares each frame with the previous one and with the last one that the detector ran on.

    All frames have one size: a video that changes it needs a new Motion.
    """

    def __init__(self) -> None:
        self._small: NDArray[np.float32] | None = None
        self._detected: NDArray[np.float32] | None = None
        self._faces: list[Box] = []
        self._scale = 1.0

    def cut(self, gray: Image) -> bool:
        """Take the next frame, (H, W) uint8, and return whether it may show another scene than the last.

        True for the first frame.
        """
        before, self._small = self._small, self._shrunk(gray)
        return before is None or float(np.abs(self._small - before).mean()) > _SCENE_CHANGE

    def appearance(self, box: Box) -> Appearance:
        """Return the appearance of a box in this frame, so coarse that small shifts of the box do not matter."""
        x, y, w, h = (side * self._scale for side in box)
        matrix = np.array([[w / _GRID, 0, x + w / _GRID / 2 - 0.5], [0, h / _GRID, y + h / _GRID / 2 - 0.5]])
        flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (_GRID, _GRID)
        assert self._small is not None
        return np.asarray(cv2.warpAffine(self._small, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))

    def note_detection(self, faces: Iterable[Box]) -> None:
        """Note that the detector ran on this frame, and that these faces are known in it."""
        self._detected, self._faces = self._small, list(faces)

    def has_newcomer(self, faces: Iterable[Box]) -> bool:
        """Return whether something changed since the last detector pass, other than at or below these faces.

        True before the first pass.
        """
        if self._detected is None or self._small is None:
            return True
        changed = (np.abs(self._small - self._detected) > _PIXEL_CHANGE).astype(np.uint8)
        # also where the faces were: a head that moves away uncovers what is behind it
        for x, y, w, h in (*self._faces, *faces):
            # a head is larger than its face box, and shoulders and hands move below it
            left, right = (max(0, round(side * self._scale)) for side in (x - w / 2, x + 1.5 * w))
            changed[max(0, round((y - h / 2) * self._scale)) :, left : right + 1] = 0
        block = np.ones((_BLOCK_SIDE, _BLOCK_SIDE), np.uint8)
        return bool(cv2.erode(changed, block, borderType=cv2.BORDER_CONSTANT, borderValue=0).any())

    def _shrunk(self, gray: Image) -> NDArray[np.float32]:
        self._scale = min(1.0, _MAX_SIDE / max(gray.shape))
        height, width = (max(1, round(side * self._scale)) for side in gray.shape)
        # first take every N-th pixel: four in each direction are enough for a mean, and a large frame then costs no
        # more than a small one
        step = max(1, int(1 / self._scale) // 4)
        part = gray[::step, ::step]
        if max(part.shape) >= 4 * _MAX_SIDE:
            # OpenCV averages blocks of whole pixels ten times as fast as blocks with fractions of pixels
            columns, rows = (max(1, side // 2) for side in part.shape[::-1])
            half = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
            part = np.asarray(half, dtype=np.uint8)
        small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        # a change of light or of the camera's exposure is not motion
        return small.astype(np.float32) - np.float32(np.median(small))
