"""Names of photos, folders, globs and clips -> pictures, one at a time.

    for source in open_sources(["holiday", "clips/*.mp4"]):
        for shot in source.shots():
            shot.image          # BGR (H, W, 3) uint8

Only names are kept in memory, of one folder at a time; a clip gives one frame at a time. What a file is, its content
decides; only inside folders and globs do names choose which files are looked at.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from facexp import clip, photo
from facexp.errors import SourceError
from facexp.geometry import Image

# HEIC is not read, but a folder full of it must say so instead of looking empty
MEDIA = re.compile(
    r".+\.(jpe?g|jpe|jfif|a?png|gif|bmp|tiff?|webp|avif|hei[cf]|jp2|p[bgpn]m"
    r"|mp4|m4v|mov|mkv|webm|avi|mpe?g|mts|m2ts|wmv|flv|ogv|3gp|y4m|mjpe?g)",
    re.IGNORECASE,
)
"""The names that are taken for photos and clips inside a folder or glob."""

_logger = logging.getLogger("facexp")


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One picture: a photo, or one frame of a clip."""

    source: str
    """The name of the photo or clip, as it was given."""
    save_as: PurePath
    """Where an annotated copy belongs, relative to the folder it is saved in."""
    index: int
    """Number of the frame in the clip, from 0; 0 for a photo."""
    time_ms: float
    """Time of the frame in the clip, in milliseconds; 0 for a photo."""
    image: Image
    """BGR (H, W, 3) uint8."""
    fps: float | None = None
    """The rate at which this clip's shots are worth saving, in frames a second; None for a photo."""
    total: int | None = None
    """How many frames the clip claims to have; None for a photo and where the clip does not say."""


@dataclass(frozen=True, slots=True)
class Source:
    """One photo or clip that was named or found, not opened yet."""

    name: str
    """The name as it was given, or the folder's name with the file's name behind it."""
    save_as: PurePath
    """Where an annotated copy belongs: the name inside the given folder, with that folder's name before it."""
    problem: str | None = None
    """Why there is nothing to open; None where there is."""

    def shots(self, every: int = 1) -> Iterator[Shot]:
        """The photo, or each `every`-th frame of the clip.

        Raises SourceError, its one line starting with the name, where the file cannot be read; a clip that breaks off
        gives the frames before that first.
        """
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        try:
            yield from self._open(every)
        except SourceError as error:
            raise SourceError(f"{printable(self.name)}: {error}") from None
        except OSError as error:
            raise SourceError(f"{printable(self.name)}: {_reason(error)}") from None

    def _open(self, every: int) -> Iterator[Shot]:
        if self.problem is not None:
            raise SourceError(self.problem)
        path = Path(self.name)
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise SourceError("is neither a file nor a folder")
        with path.open("rb") as file:
            head = file.read(256)
        if not head:
            raise SourceError("is empty (0 bytes)")
        kind = photo.sniff(head[:64])
        if kind is not None and path.suffix.lower() not in (".mjpg", ".mjpeg"):
            if facts.st_size > photo.MAX_BYTES:
                raise SourceError(f"is too large: photo files of at most {photo.MAX_BYTES >> 20} MB are read")
            yield from self._photo(path, kind, every)
            return
        kind = clip.sniff(head) or kind
        if kind is None:
            raise SourceError("is not a photo or clip in a format that facexp reads")
        frames = clip.Clip(path, kind)
        for index, time_ms, image in frames.frames(every):
            yield Shot(self.name, self.save_as, index, time_ms, image, frames.fps / every, frames.count)

    def _photo(self, path: Path, kind: str, every: int) -> Iterator[Shot]:
        pages = photo.pages(path, kind)
        if pages == 1 or kind == "TIFF":
            image = photo.decode(path.read_bytes(), kind)
            if pages > 1:
                _logger.warning("%s: has %d pages, only the first is read", printable(self.name), pages)
            yield Shot(self.name, self.save_as, 0, 0.0, image)
            return
        time_ms = 0.0
        for index, (image, duration_ms) in enumerate(photo.animation(path, pages)):
            if index % every == 0:
                yield Shot(self.name, self.save_as, index, time_ms, image, photo.ANIMATION_FPS / every, pages)
            time_ms += duration_ms


def open_sources(names: Iterable[str], skip: Path | None = None) -> Iterator[Source]:
    """Each photo and clip that the names stand for, in natural order (photo2 before photo10).

    A name is a file, a folder (searched to its depths for photos and clips by suffix, hidden ones left out) or a glob
    (`**` searches to the depths). Nothing inside the folder `skip` is taken from a folder or glob: it is where results
    are written. A name without anything behind it gives one Source whose `problem` says so.
    """
    skip = None if skip is None else skip.resolve()
    for name in names:
        path = Path(name)
        # an empty name would be the current directory
        if name and path.is_dir():
            found, what = _walk(path, PurePath(path.resolve().name), skip, ()), "this folder"
        elif glob.has_magic(name) and not path.exists():
            found, what = _glob(name, skip), "what this pattern matches"
        else:
            problem = None if name and path.exists() else "no such file or folder"
            yield Source(name, PurePath(path.name), problem)
            continue
        empty = True
        for source in found:
            empty = False
            yield source
        if empty:
            yield Source(name, PurePath(path.name), f"no photo or clip in {what}")


def root(name: str) -> Path:
    """The file or folder that a name stands for; for a glob the folder before its first part with a wildcard."""
    path = Path(name)
    if not glob.has_magic(name) or path.exists():
        return path
    return Path(*path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])


def printable(name: str) -> str:
    """The name as it can be printed on one line: quoted and escaped where it holds control or broken characters."""
    return name if name.isprintable() else ascii(name)


def natural(name: str) -> str:
    """A key that sorts photo2 before photo10, capitals with small letters."""
    # one flat text, because a million keys of nested lists weigh more than the names
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name.casefold()) + "\0" + name


def _walk(folder: Path, save_as: PurePath, skip: Path | None, above: tuple[Path, ...]) -> Iterator[Source]:
    real = folder.resolve()
    # a link may lead back to a folder above
    if real == skip or real in above:
        return
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif MEDIA.fullmatch(entry.name):
                    files.append(entry.name)
    except OSError as error:
        yield Source(str(folder), save_as, _reason(error))
        return
    for name in sorted(files, key=natural):
        yield Source(str(folder / name), save_as / name)
    for name in sorted(folders, key=natural):
        yield from _walk(folder / name, save_as / name, skip, (*above, real))


def _glob(pattern: str, skip: Path | None) -> Iterator[Source]:
    fixed = root(pattern)
    # pathlib's own glob shows hidden files and refuses absolute patterns
    for name in sorted(glob.iglob(pattern, recursive=True), key=natural):  # noqa: PTH207
        path = Path(name)
        if skip is not None and path.resolve().is_relative_to(skip):
            continue
        save_as = PurePath(*(part for part in path.relative_to(fixed).parts if part != ".."))
        if path.is_dir():
            # a deep pattern names the files inside by itself
            if "**" not in pattern:
                yield from _walk(path, save_as, skip, ())
        elif MEDIA.fullmatch(path.name):
            yield Source(name, save_as)


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"cannot be read: {error.strerror or error}"
