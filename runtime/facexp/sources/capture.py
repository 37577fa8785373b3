"""Read one camera or stream with OpenCV, from opening it until it ends or fails."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from facexp.address import printable, redacted
from facexp.errors import SourceError
from facexp.geometry import Image
from facexp.reading import sane_fps
from facexp.sources import photo
from facexp.sources.aspect import pixel_aspect, squared

# a clip read from an address may have been cut off if it ends before this share of its frames
_COMPLETE_SHARE = 0.9
# seconds between two attempts to open a stream that reports no picture size yet
_RETRY_INTERVAL_S = 1.0

_logger = logging.getLogger("facexp")

# FFmpeg's log messages contain addresses with their passwords: they are off unless the user has set this variable
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class Capture(Protocol):
    """An open source of frames, used by one thread."""

    fps: float
    """Frames per second, or a nominal rate if the source does not report one."""
    finite: bool
    """Whether the source has an end of its own; if not, an end is a failure after which it is opened again."""
    converts: bool
    """Whether FFmpeg converts the frames to BGR, which it cannot do with interlaced ones."""

    def grab(self) -> bool:
        """Wait for the next frame; False at the end."""

    def stamp_ms(self) -> float | None:
        """Return the frame's own time stamp in ms; None if it has none, so that its time of arrival counts."""

    def retrieve(self) -> Image | None:
        """Return the grabbed frame as BGR (H, W, 3) uint8; None if it cannot be decoded."""

    def close(self) -> None:
        """Release the source."""


class VideoCapture:
    """A camera or stream in OpenCV. Raises SourceError, with only the reason as its message, if it cannot be opened."""

    def __init__(self, name: str, timeout_s: float) -> None:
        """Open the camera or stream.

        `name` is a camera's number, /dev/videoN or an address. For an address, `timeout_s` limits the opening and each
        read of FFmpeg.
        """
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
        # a clip at an address has a frame count, a stream has none
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
        # only a warning, because a trimmed clip's frame count includes its hidden frames
        if self.finite and 0 < self._count < _COMPLETE_SHARE * self._length:
            _logger.warning(
                "%s: ends after %d of %d frames: unless it was trimmed, its connection was lost",
                *(printable(redacted(self._name)), self._count, self._length),
            )
        return False

    def stamp_ms(self) -> float | None:
        """Return the time in a clip in ms; None for a camera or stream."""
        return self._capture.get(cv2.CAP_PROP_POS_MSEC) if self.finite else None

    def retrieve(self) -> Image | None:
        """Return the grabbed frame as BGR (H, W, 3) uint8; None if it cannot be decoded."""
        try:
            ok, image = self._capture.retrieve()
            if not ok or image is None:
                # for an empty JPEG, which some cameras send now and then, OpenCV returns True and None
                return None
            if self._jpegs:
                image = photo.decode(image.tobytes(), "JPEG")
        except (cv2.error, SourceError):
            return None
        return squared(np.asarray(image, dtype=np.uint8), self._aspect)

    def close(self) -> None:
        """Release the source."""
        self._capture.release()


def _open_stream(address: str, timeout_s: float) -> cv2.VideoCapture:
    wait_ms = max(1, round(1000 * timeout_s))
    # one decoding thread, because each further thread delays the output by one frame
    settings = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait_ms),
        *(cv2.CAP_PROP_N_THREADS, 1),
    ]
    deadline_s = time.monotonic() + timeout_s
    while True:
        begin_s = time.monotonic()
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, settings)
        # a stream joined long before its next key frame, as over UDP, opens without a size and gives no frames: retry
        if not capture.isOpened() or capture.get(cv2.CAP_PROP_FRAME_WIDTH) > 0 or time.monotonic() >= deadline_s:
            return capture
        capture.release()
        # wait in between, because a server may return the same few bytes at once to each attempt
        time.sleep(max(0.0, begin_s + _RETRY_INTERVAL_S - time.monotonic()))


def _as_jpegs(capture: cv2.VideoCapture) -> bool:
    """Make a capture of JPEG frames return them undecoded, as (1, N) uint8 bytes; False if its frames are not JPEGs.

    OpenCV would scale every picture to the size of the first, although a camera may be rotated while it runs.
    """
    jpegs = capture.get(cv2.CAP_PROP_FOURCC) == cv2.VideoWriter.fourcc(*"MJPG")
    return jpegs and capture.set(cv2.CAP_PROP_FORMAT, -1)


def _check_camera(name: str) -> None:
    """Raise SourceError if Linux has no such camera or denies access: OpenCV does not report which of the two."""
    if sys.platform != "linux":
        return
    device = Path(f"/dev/video{name}" if name.isdecimal() else name)
    if not device.exists():
        others = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
        hint = "" if not name.isdecimal() else f" (a file of this name is written ./{name})"
        raise SourceError(f"no such camera: {device} does not exist{f', but {others}' if others else ''}{hint}")
    if not os.access(device, os.R_OK | os.W_OK):
        raise SourceError(f"no permission to use {device}: add the user to the group that owns it, usually `video`")
