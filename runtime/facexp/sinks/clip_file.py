"""Write the file of one annotated clip, or of one recording of a source that cannot be read again."""

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
from facexp.sources.photo import opencv_name

MAX_PAUSE_S = 10.0
"""The longest time in seconds that a saved clip shows one frame: a broken time stamp must not fill the disk."""
MIN_FREE_BYTES = 64 << 20
"""A recording stops if the disk has fewer bytes free: the machine needs them, and so does closing the file."""

_logger = logging.getLogger("facexp")

# seconds between two checks of the free disk space
_DISK_CHECK_INTERVAL_S = 1.0
# FFmpeg writes pieces of 256 kB. The smallest clip, a black one, has 1.4 bytes per 1,000 pixels, so that a piece holds
# at most 190 million; with no new piece after twice as many, the disk does not take what is written
_MAX_PIXELS_UNWRITTEN = 400_000_000
# share of the machine's time that encoding a live source may take: the rest is for the analysis
_ENCODING_SHARE = 0.25
# number of frames encoded to measure the machine's speed
_TRIAL_FRAMES = 4


class SinkError(FacexpError):
    """A picture or clip cannot be written."""


class ClipFile:
    """An MP4 file with a constant frame rate, in which each picture is repeated until the time of the next one.

    It is written under a temporary name, and `finish` renames it.
    """

    suffix: ClassVar[str] = ".mp4"

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = _codec_rate(max(fps, 1 / MAX_PAUSE_S))
        self._file = self._working_file()
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._last_image: Image | None = None
        self._start_ms = 0.0
        self._end_ms = 0.0
        self._written = 0

    def _working_file(self) -> Path:
        """Return the file that frames are written to."""
        return part_file(self._path, self.suffix)

    def write(self, image: Image, time_ms: float, shown_ms: float | None = None) -> None:
        """Show the picture from `time_ms` until the next one's time.

        The last picture of the clip is shown for `shown_ms`, or for one frame if that is None. Raises SinkError.
        """
        if self._writer is None:
            # the codec subsamples colour by 2: an odd last row or column would be dropped
            self._size = (image.shape[1] + image.shape[1] % 2, image.shape[0] + image.shape[0] % 2)
            self._start_ms = time_ms
            self._writer = self._open_writer(image)
        limit = self._max_frames(time_ms - self._end_ms)
        self._end_ms = time_ms + (shown_ms or 0.0)
        # the number of frames to write: the picture before fills the time until this one
        due = round((time_ms - self._start_ms) / 1000 * self._fps) + 1 - self._written
        if due > limit:
            self._start_ms += (due - limit) / self._fps * 1000
            due = limit
        before, self._last_image = self._last_image, self._fit(image)
        for i in range(due):
            self._writer.write(self._last_image if before is None or i == due - 1 else before)
            self._written += 1

    def _max_frames(self, since_ms: float) -> int:
        """Return how many frames may be written for a picture that comes `since_ms` after the last one."""
        return math.ceil(MAX_PAUSE_S * self._fps)

    def _fit(self, image: Image) -> Image:
        width, height = self._size
        extra_columns, extra_rows = width - image.shape[1], height - image.shape[0]
        if 0 <= extra_columns <= 1 and 0 <= extra_rows <= 1:
            return np.asarray(
                cv2.copyMakeBorder(image, 0, extra_rows, 0, extra_columns, cv2.BORDER_REPLICATE), dtype=np.uint8
            )
        # a stream may change its size while it runs, and a camera may be rotated: letterbox the picture
        scale = min(width / image.shape[1], height / image.shape[0])
        columns, rows = (max(1, round(scale * side)) for side in image.shape[1::-1])
        canvas = np.zeros((height, width, 3), np.uint8)
        left, top = (width - columns) // 2, (height - rows) // 2
        canvas[top : top + rows, left : left + columns] = cv2.resize(
            image, (columns, rows), interpolation=cv2.INTER_AREA
        )
        return canvas

    def _open_writer(self, first: Image) -> cv2.VideoWriter:
        """Open the writer; its frames have the size of the first picture, made even."""
        return self._new_writer(self._file)

    def _new_writer(self, file: Path) -> cv2.VideoWriter:
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        try:
            name = opencv_name(file)
            # create the file here, because OpenCV does not report what is wrong with the folder
            file.touch()
        except SourceError as error:
            raise sink_error(self._path, str(error)) from None
        except OSError as error:
            raise write_error(self._path, error) from None
        writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, codec, self._fps, self._size)
        if not writer.isOpened():
            discard(file)
            width, height = self._size
            what = f"a clip of {width}x{height} at {self._fps:.4g} frames/s"
            raise sink_error(self._path, f"OpenCV cannot write {what} here")
        return writer

    def finish(self) -> None:
        """Close the file and rename it to its own name. Raises SinkError if it does not contain every frame."""
        if self._writer is None:
            return
        if self._last_image is not None:
            # if an animation says how long its last frame is shown, repeat the frame until the end of that time
            self.write(self._last_image, self._end_ms - 1000 / self._fps)
        self._writer.release()
        try:
            self._expect_all()
            self._file.replace(self._path)
        except OSError as error:
            raise write_error(self._path, error) from None
        finally:
            discard(self._file)

    def _expect_all(self, spare: int = 0) -> None:
        """Raise SinkError if more than `spare` frames are missing in the file.

        The writer itself reports no error, not even a full disk.
        """
        reader = cv2.VideoCapture(opencv_name(self._file), cv2.CAP_FFMPEG)
        count = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
        reader.release()
        if count < self._written - spare:
            # below 0 where the file's end, which has its length, is missing
            kept = f"only {count}" if count >= 0 else "not all"
            raise sink_error(self._path, f"{kept} of {self._written} frames could be written: is the disk full?")

    def abandon(self) -> None:
        """Close the file and remove it."""
        if self._writer is not None:
            self._writer.release()
        discard(self._file)


class Recording(ClipFile):
    """A Matroska file, which plays even if its end is missing, written under its own name and never removed.

    A crash or a power cut loses the last quarter of a megabyte, because FFmpeg writes in pieces of that size.

    With `live` the frame rate is limited to what this machine can encode in a quarter of its time. A clip repeats each
    picture until the next one; at a camera's own rate, a slow machine would spend more and more of its time on encoding
    repeated pictures, and analyse fewer and fewer new ones.
    """

    suffix: ClassVar[str] = ".mkv"

    def __init__(self, path: Path, fps: float, live: bool) -> None:
        super().__init__(path, fps)
        self._live = live
        self._frame_cost_s = 0.0
        self._checked_s = 0.0
        # the file's size in bytes when it last grew, and how many frames were written until then
        self._bytes_on_disk = self._written_before = 0

    def _working_file(self) -> Path:
        return self._path

    def write(self, image: Image, time_ms: float, shown_ms: float | None = None) -> None:
        """Write as `ClipFile.write`.

        Raises SinkError if the disk is gone, nearly full or takes no more of the file; what is recorded is kept.
        """
        now = time.monotonic()
        if now >= self._checked_s + _DISK_CHECK_INTERVAL_S:
            self._checked_s = now
            self._expect_disk()
        before, begin = self._written, time.perf_counter()
        super().write(image, time_ms, shown_ms)
        if self._written > before > 0:
            self._frame_cost_s = (time.perf_counter() - begin) / (self._written - before)

    def _expect_disk(self) -> None:
        try:
            problem = self._disk_problem()
            if problem is None:
                return
            failure = sink_error(self._path, f"nothing more is recorded: {problem}")
        except OSError as error:
            failure = write_error(self._path, error)
        if self._writer is None:
            discard(self._path)
        else:
            self._writer.release()
        raise failure

    def _disk_problem(self) -> str | None:
        """Return why the disk will not take more frames; None if it does. Raises OSError if the file is gone."""
        if shutil.disk_usage(self._path.parent).free < MIN_FREE_BYTES:
            return f"fewer than {MIN_FREE_BYTES >> 20} MB are left on the disk"
        # free space is not everything: FAT32 takes 4 GB a file, users have quotas, and memory cards fail
        size = self._path.stat().st_size
        if size != self._bytes_on_disk:
            self._bytes_on_disk, self._written_before = size, self._written
        elif (self._written - self._written_before) * math.prod(self._size) > _MAX_PIXELS_UNWRITTEN:
            return f"the disk takes no more of this file, which has {size:,} bytes"
        return None

    def _max_frames(self, since_ms: float) -> int:
        # encode for at most half of the time since the last picture; if the machine has become too slow for that, the
        # clip gets shorter than its source
        affordable = since_ms / 2000 / self._frame_cost_s if self._live and self._frame_cost_s else math.inf
        return max(1, int(min(affordable, super()._max_frames(since_ms))))

    def _open_writer(self, first: Image) -> cv2.VideoWriter:
        try:
            if self._live:
                self._fps = self._affordable_fps(first)
            return super()._open_writer(first)
        except SinkError:
            # do not leave an empty file, which looks like a recording
            discard(self._path)
            raise

    def _affordable_fps(self, first: Image) -> float:
        trial = part_file(self._path, self.suffix)
        try:
            writer, picture, times = self._new_writer(trial), self._fit(first), []
            for _ in range(_TRIAL_FRAMES):
                begin = time.perf_counter()
                writer.write(picture)
                times.append(time.perf_counter() - begin)
            writer.release()
        finally:
            discard(trial)
        # the first frame is a key frame, unlike those that follow
        return _codec_rate(max(min(self._fps, _ENCODING_SHARE / min(times[1:])), 1.0))

    def finish(self) -> None:
        """Close the file. Raises SinkError if it does not contain every frame; those that it contains are kept."""
        if self._writer is None:
            # the empty file that reserved the name
            discard(self._path)
            return
        self._writer.release()
        # Matroska has no frame count: OpenCV computes it from the length, and may be off by one
        self._expect_all(spare=1)

    def abandon(self) -> None:
        """Close the file and keep it."""
        # only log the error: the caller raises the reason why the recording is abandoned
        try:
            self.finish()
        except SinkError as error:
            _logger.error(str(error))


def _codec_rate(fps: float) -> float:
    """Return the rate rounded to one that MPEG-4 can store: as a decimal fraction, whose numerator has 16 bits."""
    return round(fps, 3 if fps < 65 else 2)


def claim_file(path: Path) -> bool:
    """Reserve a name: create an empty file, atomically, and its folders; False if the file exists already.

    Raises OSError if no file can be created there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def sink_error(path: Path, why: str) -> SinkError:
    """Return a SinkError that names the file or folder and the reason."""
    return SinkError(f"{printable(str(path))}: {why}")


def write_error(path: Path, error: OSError) -> SinkError:
    """Return the SinkError for a file that the operating system refused to write."""
    return sink_error(path, f"cannot be written: {error.strerror}")


def part_file(path: Path, suffix: str) -> Path:
    """Return a temporary path for a file that is renamed when it is complete, in the same folder, which is created.

    The name is hidden and random, and short even if the file's own name is long. Raises SinkError for the folder.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise sink_error(path.parent, f"this folder cannot be made: {error.strerror}") from None
    # random rather than a process id: processes of other containers, which may have the same id, may write here too
    return path.with_name(f".facexp-{os.urandom(6).hex()}{suffix}")
