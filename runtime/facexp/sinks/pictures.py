"""Save annotated pictures and clips in a folder.

Each file is written under a temporary name and then renamed, so that a half-written one is never visible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

import cv2

from facexp.address import STDIN, is_live, printable
from facexp.draw import annotate
from facexp.files import discard
from facexp.geometry import Image
from facexp.sinks.clip_file import ClipFile, Recording, SinkError, claim_file, part_file, sink_error, write_error
from facexp.sources import Listed, listed
from facexp.sources.globs import is_folder, real_path, root
from facexp.sources.shots import Shot
from facexp.types import Frame

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""An annotated photo keeps its name if it ends in one of these; otherwise ".png" is added."""


class PictureSink:
    """Saves annotated pictures and clips in a folder, each under its source's name (`Shot.save_as`).

    Photos keep their format; clips become MP4 with their own timing. Two sources with the same name get two files (x,
    x-2). A source is never overwritten; the file of an earlier run is replaced. Leaving the `with` block by an
    exception removes the clip that is being written. A live source or a pipe cannot be read again, so its recording
    replaces no file and is never removed: it is Matroska, which can be played even if its end is missing.
    """

    def __init__(self, folder: Path, sources: Iterable[str | Listed] = ()) -> None:
        """`sources` are the names given to `open_sources`.

        Raises SinkError if the folder cannot be created, or if results would mix with the sources.
        """
        real = real_path(folder)
        self._folder = folder
        self._sources: set[Path] = set()
        for name, trouble in listed(sources):
            if trouble is not None or name == STDIN or is_live(name):
                continue
            fixed_part = root(name)
            source = real_path(fixed_part)
            # files next to a source photo are not those of an earlier run and must not be replaced; and next to a
            # source folder, the folder for its results would be the source folder itself
            forbidden = {source.parent} if is_folder(source) else {source.parent, real_path(fixed_part.parent)}
            if real == source or (fixed_part == Path(name) and real in forbidden):
                problem = f"results would mix with the pictures in {printable(str(real))}: give another folder"
                raise sink_error(folder, problem)
            # a results folder inside a source folder is skipped in the search for sources: its files are only results
            if source not in real.parents:
                self._sources.add(source)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise sink_error(folder, f"this folder cannot be made: {error.strerror}") from None
        self._used: dict[str, int] = {}
        self._clip: ClipFile | None = None
        self._last: tuple[str, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish()
        elif self._clip is not None:
            self._clip.abandon()

    def write(self, frame: Frame, shot: Shot | None = None) -> None:
        """Draw the frame's faces on its picture and save it; a frame without a picture (`shot` is None) is not saved.

        Raises SinkError if it cannot be written: for a clip only once, the rest of its frames are then skipped. If the
        clip before it cannot be closed, SinkError says so after the picture was saved.
        """
        failures = []
        if shot is None or not self._continues(shot):
            failures += _failures(self.finish)
        if shot is not None:
            failures += _failures(self._save, frame, shot)
        if failures:
            raise SinkError("; ".join(failures))

    def _save(self, frame: Frame, shot: Shot) -> None:
        if shot.fps is None:
            save_picture(self._target(shot), annotate(shot.image, frame.faces))
            return
        is_first = self._last is None
        self._last = (shot.source, shot.index)
        if is_first:
            live = shot.captured_s is not None
            if live or (shot.source == STDIN and shot.total is None):
                self._clip = Recording(self._target(shot, Recording.suffix, overwrite=False), shot.fps, live)
            else:
                self._clip = ClipFile(self._target(shot, ClipFile.suffix), shot.fps)
        if self._clip is not None:
            try:
                self._clip.write(annotate(shot.image, frame.faces), shot.time_ms, shot.shown_ms)
            except SinkError:
                self._clip = None
                raise

    def _continues(self, shot: Shot) -> bool:
        return self._last is not None and self._last[0] == shot.source and self._last[1] < shot.index

    def finish(self) -> None:
        """Close the clip that is being written, if any. Raises SinkError if that fails."""
        clip, self._clip, self._last = self._clip, None, None
        if clip is not None:
            clip.finish()

    def _target(self, shot: Shot, suffix: str | None = None, overwrite: bool = True) -> Path:
        """Return the path for a shot's picture or clip; `overwrite`: a file of an earlier run may be replaced."""
        wanted = self._folder / shot.save_as
        if suffix is not None:
            wanted = wanted.with_suffix(suffix)
        elif wanted.suffix.lower() not in SUFFIXES:
            wanted = wanted.with_name(wanted.name + ".png")
        # on many systems two names that differ only by case are the same file
        first = str(wanted).casefold()
        path = wanted
        try:
            while str(path).casefold() in self._used or self._is_source(path) or not (overwrite or claim_file(path)):
                self._used[first] = number = self._used.get(first, 1) + 1
                path = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        except OSError as error:
            # for example, the added number made the name too long
            raise write_error(path, error) from None
        self._used.setdefault(str(path).casefold(), 1)
        return path

    def _is_source(self, path: Path) -> bool:
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        real = real_path(path)
        return not self._sources.isdisjoint((real, *real.parents))


def _failures(step: Callable[..., None], *arguments: object) -> list[str]:
    """Do a step, and return the message of the SinkError that it raises, if any."""
    try:
        step(*arguments)
    except SinkError as error:
        return [str(error)]
    return []


def save_picture(path: Path, image: Image) -> None:
    """Write a BGR (H, W, 3) uint8 picture in the format of the path's suffix; missing folders are created.

    Raises SinkError if it cannot be written.
    """
    size = f"{image.shape[1]}x{image.shape[0]}"
    try:
        ok, data = cv2.imencode(path.suffix, image)
    except cv2.error as error:
        raise sink_error(path, f"a picture of {size} cannot be encoded: {error.err}") from None
    if not ok:
        raise sink_error(path, f"a picture of {size} cannot be encoded: {path.suffix} does not support this size")
    part = part_file(path, path.suffix)
    try:
        part.write_bytes(data.tobytes())
        part.replace(path)
    except OSError as error:
        raise write_error(path, error) from None
    finally:
        discard(part)
