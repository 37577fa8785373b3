"""The file of one annotated clip, and of one recording, whose source cannot be had again."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from facexp.address import printable
from facexp.errors import FacexpError, SourceError
from facexp.files import discard
from facexp.geometry import Image
from facexp.photo import opencv_name

LONGEST_PAUSE_S = 10.0
"""A saved clip shows no frame for longer: a broken time stamp must not fill the disk."""
LEAST_FREE = 64 << 20
"""A recording ends where the disk has fewer bytes left, for the machine's sake and for the recording's own end."""

_logger = logging.getLogger("facexp")

_LOOK_S = 1.0
# of a machine's time for one source, what its recording may take: the rest is for the faces
_SHARE = 0.25
_TRIAL = 4


class SinkError(FacexpError):
    """A picture or clip cannot be written."""


class ClipFile:
    """An MP4 file that grows frame by frame, at the pace of the times it is given, and gets its name at its end."""

    suffix: ClassVar[str] = ".mp4"

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        # OpenCV hands the rate to the codec as a decimal fraction, and MPEG-4 has 16 bits for its numerator
        self._fps = round(max(fps, 1 / LONGEST_PAUSE_S), 3 if fps < 65 else 2)
        self._file = self._begun()
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._shown: Image | None = None
        self._start_ms = 0.0
        self._end_ms = 0.0
        self._written = 0

    def _begun(self) -> Path:
        """The file that grows."""
        return part_file(self._path, self.suffix)

    def write(self, image: Image, time_ms: float, shown_ms: float | None = None) -> None:
        """Show the picture from this time on, and at the end for as long as it says, else for one frame."""
        if self._writer is None:
            # the codec halves the colour's resolution: an odd last row or column would be dropped
            self._size = (image.shape[1] + image.shape[1] % 2, image.shape[0] + image.shape[0] % 2)
            self._start_ms = time_ms
            self._writer = self._opened(image)
        most = self._most(time_ms - self._end_ms)
        self._end_ms = time_ms + (shown_ms or 0.0)
        # how many frames the clip has when this one is in it; what came before shows until then
        due = round((time_ms - self._start_ms) / 1000 * self._fps) + 1 - self._written
        if due > most:
            self._start_ms += (due - most) / self._fps * 1000
            due = most
        before, self._shown = self._shown, self._fit(image)
        for i in range(due):
            self._writer.write(self._shown if before is None or i == due - 1 else before)
            self._written += 1

    def _most(self, since_ms: float) -> int:
        """How many frames a picture may take that comes so long after the last one."""
        return math.ceil(LONGEST_PAUSE_S * self._fps)

    def _fit(self, image: Image) -> Image:
        width, height = self._size
        more_x, more_y = width - image.shape[1], height - image.shape[0]
        if 0 <= more_x <= 1 and 0 <= more_y <= 1:
            return np.asarray(cv2.copyMakeBorder(image, 0, more_y, 0, more_x, cv2.BORDER_REPLICATE), dtype=np.uint8)
        # a stream may change its size on the way, and a camera may be turned
        scale = min(width / image.shape[1], height / image.shape[0])
        columns, rows = (max(1, round(scale * side)) for side in image.shape[1::-1])
        canvas = np.zeros((height, width, 3), np.uint8)
        left, top = (width - columns) // 2, (height - rows) // 2
        canvas[top : top + rows, left : left + columns] = cv2.resize(
            image, (columns, rows), interpolation=cv2.INTER_AREA
        )
        return canvas

    def _opened(self, first: Image) -> cv2.VideoWriter:
        """The writer, for frames of the size of the first one's."""
        return self._writer_of(self._file)

    def _writer_of(self, file: Path) -> cv2.VideoWriter:
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        try:
            name = opencv_name(file)
            # OpenCV would not say what is wrong with the folder
            file.touch()
        except SourceError as error:
            raise failed(self._path, str(error)) from None
        except OSError as error:
            raise unwritten(self._path, error) from None
        writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, codec, self._fps, self._size)
        if not writer.isOpened():
            discard(file)
            width, height = self._size
            what = f"a clip of {width}x{height} at {self._fps:.4g} frames/s"
            raise failed(self._path, f"OpenCV cannot write {what} here")
        return writer

    def finish(self) -> None:
        """Close the file and give it its name. Raises SinkError where not every frame arrived in it."""
        if self._writer is None:
            return
        if self._shown is not None:
            # where an animation says how long its last frame shows, it is there once more at the end of that
            self.write(self._shown, self._end_ms - 1000 / self._fps)
        self._writer.release()
        try:
            self._expect_all()
            self._file.replace(self._path)
        except OSError as error:
            raise unwritten(self._path, error) from None
        finally:
            discard(self._file)

    def _expect_all(self, spare: int = 0) -> None:
        """SinkError where more frames than `spare` are missing: the writer reports no error, not even a full disk."""
        reader = cv2.VideoCapture(opencv_name(self._file), cv2.CAP_FFMPEG)
        count = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
        reader.release()
        if count < self._written - spare:
            raise failed(self._path, f"only {count} of {self._written} frames could be written: is the disk full?")

    def abandon(self) -> None:
        """Close the file and remove it."""
        if self._writer is not None:
            self._writer.release()
        discard(self._file)


class Recording(ClipFile):
    """A Matroska file, which can be played without its end: it is never removed, and a crash or a power cut costs it
    the last quarter of a megabyte, which FFmpeg writes at once.

    With `live` its rate is what this machine can encode in a part of its time. A clip shows a picture until the next
    one comes; at a camera's own rate a slow machine would draw ever longer gaps with ever more of the same, and see
    ever less.
    """

    suffix: ClassVar[str] = ".mkv"

    def __init__(self, path: Path, fps: float, live: bool) -> None:
        super().__init__(path, fps)
        self._live = live
        self._cost_s = 0.0
        self._look_s = 0.0

    def _begun(self) -> Path:
        return self._path

    def write(self, image: Image, time_ms: float, shown_ms: float | None = None) -> None:
        """As of any clip. Raises SinkError, with the file closed and kept, where the disk is nearly full or gone."""
        now = time.monotonic()
        if now >= self._look_s + _LOOK_S:
            self._look_s = now
            self._expect_room()
        before, begin = self._written, time.perf_counter()
        super().write(image, time_ms, shown_ms)
        if self._written > before > 0:
            self._cost_s = (time.perf_counter() - begin) / (self._written - before)

    def _expect_room(self) -> None:
        try:
            free = shutil.disk_usage(self._path.parent).free
        except OSError as error:
            raise unwritten(self._path, error) from None
        if free >= LEAST_FREE:
            return
        if self._writer is None:
            discard(self._path)
        else:
            self._writer.release()
        least = f"fewer than {LEAST_FREE >> 20} MB are left on the disk"
        raise failed(self._path, f"nothing more is recorded: {least}")

    def _most(self, since_ms: float) -> int:
        # half of the time since the last picture; on a machine that has become slower than that the clip loses time
        affordable = since_ms / 2000 / self._cost_s if self._live and self._cost_s else math.inf
        return max(1, int(min(affordable, super()._most(since_ms))))

    def _opened(self, first: Image) -> cv2.VideoWriter:
        try:
            if self._live:
                self._fps = self._affordable_fps(first)
            return super()._opened(first)
        except SinkError:
            # an empty file would stand for a recording
            discard(self._path)
            raise

    def _affordable_fps(self, first: Image) -> float:
        trial = part_file(self._path, self.suffix)
        try:
            writer, picture, times = self._writer_of(trial), self._fit(first), []
            for _ in range(_TRIAL):
                begin = time.perf_counter()
                writer.write(picture)
                times.append(time.perf_counter() - begin)
            writer.release()
        finally:
            discard(trial)
        # the first frame is another kind than those that follow
        return round(max(min(self._fps, _SHARE / min(times[1:])), 1.0), 3)

    def finish(self) -> None:
        """Close the file. Raises SinkError where not every frame arrived in it; those that did are kept."""
        if self._writer is None:
            # its name was claimed, and nothing recorded
            discard(self._path)
            return
        self._writer.release()
        # the number of frames is not in the file, but is made from its length
        self._expect_all(spare=1)

    def abandon(self) -> None:
        """Close the file and keep it."""
        # what goes up is the reason to stop, not how the recording fared
        try:
            self.finish()
        except SinkError as trouble:
            _logger.error(str(trouble))


def claimed(path: Path) -> bool:
    """Whether a new file could be made there, which nobody else can have begun. OSError where none can be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def failed(path: Path, why: str) -> SinkError:
    """The error about a file or folder."""
    return SinkError(f"{printable(str(path))}: {why}")


def unwritten(path: Path, error: OSError) -> SinkError:
    """The error about a file that the system refused."""
    return failed(path, f"cannot be written: {error.strerror}")


def part_file(path: Path, suffix: str) -> Path:
    """Where a file is written before it is renamed: beside it, hidden, and short where the name is long."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failed(path.parent, f"this folder cannot be made: {error.strerror}") from None
    # another process, or another container's first one, may write into the same folder
    return path.with_name(f".facexp-{os.urandom(6).hex()}{suffix}")
