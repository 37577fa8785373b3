"""Records without faces for the sinks of pictures, and what these have written."""

from __future__ import annotations

from pathlib import Path

import cv2

from facexp.sources.shots import Shot
from facexp.types import Frame, Timings


def frame(shot: Shot) -> Frame:
    height, width = shot.image.shape[:2]
    return Frame(shot.source, shot.index, shot.time_ms, width, height, "cpu", (), Timings())


def read_clip(path: str) -> tuple[float, list[float], tuple[int, int]]:
    """Return the frames per second, each frame's brightness, and the size."""
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    assert capture.isOpened()
    found: list[float] = []
    size = (0, 0)
    while True:
        ok, image = capture.read()
        if not ok:
            return capture.get(cv2.CAP_PROP_FPS), found, size
        found.append(float(image.mean()))
        size = (image.shape[1], image.shape[0])


def files(folder: str = ".") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
