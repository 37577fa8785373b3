"""What changed in a video, seen on a shrunken gray picture: another scene, another face, or something that moved in."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from facexp.detector import Box
from facexp.geometry import Image

_LONGEST = 96
# mean change of a pixel, in gray levels, with the frame's own brightness taken out: two different photos differ by more
# than 20, motion in the sample clips stays below 8, but a camera that is turned changes as much
_CUT = 20.0
# a face in so many parts differs from itself a fifth of a second later by 9 at most, from others by more than 15 in 99%
# of pairs and by more than 20 in 97% (docs/experiments.md)
_REPLACED, _STRANGER = 20.0, 15.0
# a block of so many pixels a side, each changed by so many gray levels: the smallest face the detector finds
_BLOCK = 3
_CHANGE = 15.0
# a face is compared in so many parts a side
_PART = 4


Look = NDArray[np.float32]
"""What a box showed: float32 (4, 4) gray levels, without the frame's own brightness."""


def differ(before: Look, now: Look, cut: bool = False) -> bool:
    """Whether two boxes show something else; `cut`: the scene may have changed between them."""
    return float(np.abs(now - before).mean()) > (_STRANGER if cut else _REPLACED)


class Motion:
    """Compares each frame with the one before and with the one that the detector saw last."""

    def __init__(self) -> None:
        self._small: NDArray[np.float32] | None = None
        self._seen: NDArray[np.float32] | None = None
        self._faces: list[Box] = []
        self._scale = 1.0

    def cut(self, gray: Image) -> bool:
        """Take the next (H, W) frame; whether it may show another scene than the last. The first one does."""
        before, self._small = self._small, self._shrunk(gray)
        if before is None or before.shape != self._small.shape:
            return True
        return float(np.abs(self._small - before).mean()) > _CUT

    def look(self, box: Box) -> Look:
        """What a box shows in this frame, in so few pixels that it does not matter how exactly the box lies."""
        x, y, w, h = (side * self._scale for side in box)
        matrix = np.array([[w / _PART, 0, x + w / _PART / 2 - 0.5], [0, h / _PART, y + h / _PART / 2 - 0.5]])
        how, out = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (_PART, _PART)
        assert self._small is not None
        return np.asarray(cv2.warpAffine(self._small, matrix, out, flags=how, borderMode=cv2.BORDER_REPLICATE))

    def seen(self, faces: Iterable[Box]) -> None:
        """The detector has looked at this frame, where these faces are known."""
        self._seen, self._faces = self._small, list(faces)

    def newcomer(self, faces: Iterable[Box]) -> bool:
        """Whether something has changed since the detector's last look, away from these faces and what is below."""
        if self._seen is None or self._small is None or self._seen.shape != self._small.shape:
            return True
        changed = (np.abs(self._small - self._seen) > _CHANGE).astype(np.uint8)
        # also where they were: a head that moves on uncovers what is behind it
        for x, y, w, h in (*self._faces, *faces):
            # a head is larger than its face, and shoulders and hands move below it
            left, right = (max(0, round(side * self._scale)) for side in (x - w / 2, x + 1.5 * w))
            changed[max(0, round((y - h / 2) * self._scale)) :, left : right + 1] = 0
        block = np.ones((_BLOCK, _BLOCK), np.uint8)
        return bool(cv2.erode(changed, block, borderType=cv2.BORDER_CONSTANT, borderValue=0).any())

    def _shrunk(self, gray: Image) -> NDArray[np.float32]:
        self._scale = min(1.0, _LONGEST / max(gray.shape))
        height, width = (max(1, round(side * self._scale)) for side in gray.shape)
        # every N-th pixel first: four a side are enough for a mean, and a large frame costs no more than a small
        step = max(1, int(1 / self._scale) // 4)
        part = gray[::step, ::step]
        if max(part.shape) >= 4 * _LONGEST:
            # OpenCV takes means of whole blocks ten times as fast as those of parts
            columns, rows = (max(1, side // 2) for side in part.shape[::-1])
            half = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
            part = np.asarray(half, dtype=np.uint8)
        small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        # a lamp or the camera's own exposure is no motion
        return small.astype(np.float32) - np.float32(np.median(small))
