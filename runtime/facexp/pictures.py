"""Annotated pictures and clips in a folder.

Files are written beside and then renamed, so that a half-written one never shows.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from facexp.address import STDIN, is_live, printable
from facexp.draw import annotate
from facexp.errors import FacexpError, SourceError
from facexp.geometry import Image
from facexp.globs import real_path, root
from facexp.photo import opencv_name
from facexp.shots import Shot
from facexp.sources import Listed, listed
from facexp.types import Frame

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""An annotated photo keeps its name where it ends in one of these; else ".png" is added."""

LONGEST_PAUSE_S = 10.0
"""A saved clip shows no frame for longer: a broken time stamp must not fill the disk."""


class SinkError(FacexpError):
    """A picture or clip cannot be written."""


class PictureSink:
    """Annotated pictures and clips in a folder, each under its source's name (`Shot.save_as`).

    Photos keep their format, clips become MP4 at their own pace. Two sources of one name get two files (x, x-2), and
    no source is ever written over; the file of an earlier run is replaced, but not the recording of what cannot be had
    again: a live source, a pipe. Leaving the `with` block by an exception removes the clip that is being written, but
    not such a recording, which ends in no other way.
    """

    def __init__(self, folder: Path, sources: Iterable[str | Listed] = ()) -> None:
        """`sources` are the names given to `open_sources`.

        Raises SinkError where the folder cannot be made, or where results would mix with the sources.
        """
        real = real_path(folder)
        self._folder = folder
        self._sources: list[Path] = []
        for name, trouble in listed(sources):
            if trouble is not None or name == STDIN or is_live(name):
                continue
            fixed = root(name)
            source = real_path(fixed)
            # what lies beside a photo is not of an earlier run, and a folder's results lie in a folder of its name
            # pathlib's own refuses names that are too long
            folder_named = os.path.isdir(source)  # noqa: PTH112
            beside = {source.parent} if folder_named else {source.parent, real_path(fixed.parent)}
            if real == source or (fixed == Path(name) and real in beside):
                mixed = f"results would mix with the pictures in {printable(str(real))}: name another folder"
                raise _failed(folder, mixed)
            # a results folder inside a source folder is left out when that is searched: what lies in it are results
            if source not in real.parents:
                self._sources.append(source)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _failed(folder, f"this folder cannot be made: {error.strerror}") from None
        self._used: dict[str, int] = {}
        self._clip: _ClipFile | None = None
        self._last: tuple[str, int] | None = None
        self._endless = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        elif self._clip is not None and self._endless:
            # what goes up is the reason to stop, not how the last clip fared
            with contextlib.suppress(SinkError):
                self.finish()
        elif self._clip is not None:
            self._clip.abandon()

    def write(self, frame: Frame, shot: Shot | None = None) -> None:
        """Draw the frame's faces on its picture and save it; nothing to do for a frame without a picture.

        Raises SinkError where it cannot be written: once for a clip, whose other frames are then passed over.
        """
        if shot is None or not self._continues(shot):
            self.finish()
        if shot is None:
            return
        if shot.fps is None:
            save_picture(self._target(shot), annotate(shot.image, frame.faces))
            return
        new = self._last is None
        self._endless = shot.captured_s is not None or (shot.source == STDIN and shot.total is None)
        self._last = (shot.source, shot.index)
        if new:
            self._clip = _ClipFile(self._target(shot, ".mp4", again=not self._endless), shot.fps)
        if self._clip is not None:
            try:
                self._clip.write(annotate(shot.image, frame.faces), shot.time_ms, shot.shown_ms)
            except SinkError:
                self._clip = None
                raise

    def _continues(self, shot: Shot) -> bool:
        return self._last is not None and self._last[0] == shot.source and self._last[1] < shot.index

    def finish(self) -> None:
        """Close the clip that is being written, if any. Raises SinkError where that fails."""
        clip, self._clip, self._last = self._clip, None, None
        if clip is not None:
            clip.finish()

    def _target(self, shot: Shot, suffix: str | None = None, again: bool = True) -> Path:
        """Where a shot's picture or clip goes; `again`: what an earlier run has written there may go."""
        wanted = self._folder / shot.save_as
        if suffix is not None:
            wanted = wanted.with_suffix(suffix)
        elif wanted.suffix.lower() not in SUFFIXES:
            wanted = wanted.with_name(wanted.name + ".png")
        # two names that differ by case alone are one file on many systems
        first = str(wanted).casefold()
        path = wanted
        try:
            while str(path).casefold() in self._used or self._is_source(path) or (not again and path.exists()):
                self._used[first] = number = self._used.get(first, 1) + 1
                path = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        except OSError as error:
            # such as a name that was as long as can be and has grown
            raise _unwritten(path, error) from None
        self._used.setdefault(str(path).casefold(), 1)
        return path

    def _is_source(self, path: Path) -> bool:
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        real = real_path(path)
        return any(real == source or source in real.parents for source in self._sources)


def save_picture(path: Path, image: Image) -> None:
    """Write a BGR (H, W, 3) uint8 picture in the format that the name's suffix says; folders are made.

    Raises SinkError where it cannot be written.
    """
    size = f"{image.shape[1]}x{image.shape[0]}"
    try:
        fits, data = cv2.imencode(path.suffix, image)
    except cv2.error as error:
        raise _failed(path, f"a picture of {size} cannot be encoded: {error.err}") from None
    if not fits:
        raise _failed(path, f"a picture of {size} cannot be encoded: {path.suffix} does not hold one of this size")
    part = _part(path, path.suffix)
    try:
        part.write_bytes(data.tobytes())
        part.replace(path)
    except OSError as error:
        raise _unwritten(path, error) from None
    finally:
        part.unlink(missing_ok=True)


def _failed(path: Path, why: str) -> SinkError:
    return SinkError(f"{printable(str(path))}: {why}")


def _unwritten(path: Path, error: OSError) -> SinkError:
    return _failed(path, f"cannot be written: {error.strerror}")


def _part(path: Path, suffix: str) -> Path:
    """Where a file is written before it is renamed: beside it, hidden, and short where the name is long."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _failed(path.parent, f"this folder cannot be made: {error.strerror}") from None
    # another process, or another container's first one, may write into the same folder
    return path.with_name(f".facexp-{os.urandom(6).hex()}{suffix}")


class _ClipFile:
    """An MP4 file that grows frame by frame, at the pace of the times it is given."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        # OpenCV hands the rate to the codec as a decimal fraction, and MPEG-4 has 16 bits for its numerator
        self._fps = round(max(fps, 1 / LONGEST_PAUSE_S), 3 if fps < 65 else 2)
        self._part = _part(path, path.suffix)
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._shown: Image | None = None
        self._start_ms = 0.0
        self._end_ms = 0.0
        self._written = 0

    def write(self, image: Image, time_ms: float, shown_ms: float | None = None) -> None:
        """Show the picture from this time on, and at the end for as long as it says, else for one frame."""
        if self._writer is None:
            # the codec halves the colour's resolution: an odd last row or column would be dropped
            self._size = (image.shape[1] + image.shape[1] % 2, image.shape[0] + image.shape[0] % 2)
            self._start_ms = time_ms
            self._writer = self._open()
        self._end_ms = time_ms + (shown_ms or 0.0)
        # how many frames the clip has when this one is in it; what came before shows until then
        due = round((time_ms - self._start_ms) / 1000 * self._fps) + 1 - self._written
        most = math.ceil(LONGEST_PAUSE_S * self._fps)
        if due > most:
            self._start_ms += (due - most) / self._fps * 1000
            due = most
        before, self._shown = self._shown, self._fit(image)
        for i in range(due):
            self._writer.write(self._shown if before is None or i == due - 1 else before)
        self._written += max(due, 0)

    def _fit(self, image: Image) -> Image:
        width, height = self._size
        more_x, more_y = width - image.shape[1], height - image.shape[0]
        if 0 <= more_x <= 1 and 0 <= more_y <= 1:
            return np.asarray(cv2.copyMakeBorder(image, 0, more_y, 0, more_x, cv2.BORDER_REPLICATE), dtype=np.uint8)
        # a stream may change its size on the way
        return np.asarray(cv2.resize(image, self._size, interpolation=cv2.INTER_AREA), dtype=np.uint8)

    def _open(self) -> cv2.VideoWriter:
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        try:
            name = opencv_name(self._part)
            # OpenCV would not say what is wrong with the folder
            self._part.touch()
        except SourceError as error:
            raise _failed(self._path, str(error)) from None
        except OSError as error:
            raise _unwritten(self._path, error) from None
        writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, codec, self._fps, self._size)
        if not writer.isOpened():
            self._part.unlink(missing_ok=True)
            width, height = self._size
            what = f"an MP4 of {width}x{height} at {self._fps:.4g} frames/s"
            raise _failed(self._path, f"OpenCV cannot write {what} here")
        return writer

    def finish(self) -> None:
        """Close the file and give it its name. Raises SinkError where not every frame arrived in it."""
        if self._writer is None:
            return
        if self._shown is not None:
            # where an animation says how long its last frame shows, it is there once more at the end of that
            self.write(self._shown, self._end_ms - 1000 / self._fps)
        self._writer.release()
        # the writer reports no error, not even a full disk: what was written is counted
        reader = cv2.VideoCapture(opencv_name(self._part), cv2.CAP_FFMPEG)
        count = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
        reader.release()
        try:
            if count != self._written:
                frames = f"only {count} of {self._written} frames"
                raise _failed(self._path, f"{frames} could be written: is the disk full?")
            self._part.replace(self._path)
        except OSError as error:
            raise _unwritten(self._path, error) from None
        finally:
            self._part.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Close the file and remove it."""
        if self._writer is not None:
            self._writer.release()
        self._part.unlink(missing_ok=True)
