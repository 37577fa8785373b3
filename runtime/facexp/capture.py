"""One camera or stream that is open in OpenCV, for as long as it gives frames."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from facexp import photo
from facexp.address import printable, shown
from facexp.aspect import pixel_aspect, squared
from facexp.errors import SourceError
from facexp.geometry import Image
from facexp.reading import sane_fps

# a clip behind an address that ends before this part of its length may have been cut off
_WHOLE = 0.9
# between two attempts at a stream whose pictures have no size yet
_APART_S = 1.0

_logger = logging.getLogger("facexp")

# FFmpeg's own messages name addresses with what is secret in them; who wants them says so in this variable
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class Capture(Protocol):
    """An open source of frames, used by one thread."""

    fps: float
    """Frames a second, as far as it is known."""
    finite: bool
    """Whether its end is the end, and not a reason to open it again."""
    converts: bool
    """Whether FFmpeg converts its frames, which it cannot do with interlaced ones."""

    def grab(self) -> bool:
        """Wait for the next frame; False at the end."""

    def stamp_ms(self) -> float | None:
        """The frame's own time; None where it is the time at which the frame came."""

    def retrieve(self) -> Image | None:
        """The grabbed frame as BGR (H, W, 3) uint8; None where it cannot be decoded."""

    def close(self) -> None:
        """Give the source back."""


class VideoCapture:
    """A camera or stream in OpenCV. Raises SourceError, with the reason alone, where it cannot be opened."""

    def __init__(self, name: str, timeout_s: float) -> None:
        """`name` is a camera's number, /dev/videoN or an address; `timeout_s` bounds each wait where FFmpeg reads."""
        if "://" in name:
            self._capture = _open_stream(name, timeout_s)
            problem = "cannot be opened: check the address, its user name and password, and that the stream runs"
        else:
            _check_camera(name)
            backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
            self._capture = cv2.VideoCapture(int(name) if name.isdecimal() else name, backend)
            problem = "cannot be opened as a camera: another program may be using it"
        if not self._capture.isOpened():
            raise SourceError(problem)
        self.fps = sane_fps(self._capture.get(cv2.CAP_PROP_FPS))
        # a clip behind an address knows its length, a stream does not
        self._length = self._capture.get(cv2.CAP_PROP_FRAME_COUNT) if "://" in name else 0
        self.finite = self._length > 0
        self._aspect = pixel_aspect(self._capture)
        self._jpegs = "://" in name and not self.finite and _as_jpegs(self._capture)
        self.converts = "://" in name and not self._jpegs
        self._name, self._count = name, 0

    def grab(self) -> bool:
        """Wait for the next frame; False at the end."""
        if self._capture.grab():
            self._count += 1
            return True
        # a trimmed clip counts its hidden frames too, so that this is no error
        if self.finite and 0 < self._count < _WHOLE * self._length:
            _logger.warning(
                "%s: ends after %d of %d frames: unless it was trimmed, its connection was lost",
                *(printable(shown(self._name)), self._count, self._length),
            )
        return False

    def stamp_ms(self) -> float | None:
        """The time in a clip; None for a camera or stream."""
        return self._capture.get(cv2.CAP_PROP_POS_MSEC) if self.finite else None

    def retrieve(self) -> Image | None:
        """The grabbed frame as BGR (H, W, 3) uint8; None where it cannot be decoded."""
        try:
            ok, image = self._capture.retrieve()
            if ok and self._jpegs:
                image = photo.decode(image.tobytes(), "JPEG")
        except (cv2.error, SourceError):
            return None
        return squared(np.asarray(image, dtype=np.uint8), self._aspect) if ok else None

    def close(self) -> None:
        """Give the source back."""
        self._capture.release()


def _open_stream(address: str, timeout_s: float) -> cv2.VideoCapture:
    wait_ms = max(1, round(1000 * timeout_s))
    # one thread, because each further one holds a frame back
    settings = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait_ms),
        *(cv2.CAP_PROP_N_THREADS, 1),
    ]
    end_s = time.monotonic() + timeout_s
    while True:
        begin_s = time.monotonic()
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, settings)
        # one that is joined long before its next key frame, as by UDP, is opened without a size, and then gives nothing
        if not capture.isOpened() or capture.get(cv2.CAP_PROP_FRAME_WIDTH) > 0 or time.monotonic() >= end_s:
            return capture
        capture.release()
        # a server may give the same few bytes at once, each time
        time.sleep(max(0.0, begin_s + _APART_S - time.monotonic()))


def _as_jpegs(capture: cv2.VideoCapture) -> bool:
    """Let a capture whose frames are JPEGs hand these out undecoded, bytes (1, N) uint8; False where they are not.

    OpenCV would bring every picture to the size of the first, although a camera may be turned.
    """
    jpegs = capture.get(cv2.CAP_PROP_FOURCC) == cv2.VideoWriter.fourcc(*"MJPG")
    return jpegs and capture.set(cv2.CAP_PROP_FORMAT, -1)


def _check_camera(name: str) -> None:
    """Raise SourceError where Linux has no such camera, or lets nobody use it: OpenCV would not say which."""
    if sys.platform != "linux":
        return
    device = Path(f"/dev/video{name}" if name.isdecimal() else name)
    if not device.exists():
        others = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
        hint = "" if not name.isdecimal() else f" (a file of this name is written ./{name})"
        raise SourceError(f"no such camera: {device} is not there{f', but {others}' if others else ''}{hint}")
    if not os.access(device, os.R_OK | os.W_OK):
        raise SourceError(f"no permission to use {device}: add the user to the group that owns it, mostly `video`")
