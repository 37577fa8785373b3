"""Names of photos, folders, globs, lists, clips, cameras and streams -> pictures, one at a time.

    for source in open_sources(["holiday", "clips/*.mp4", "@more.txt", "rtsp://camera/live"]):
        for shot in source.shots():
            shot.image          # BGR (H, W, 3) uint8

Only names are kept in memory, of one folder at a time; a clip gives one frame at a time. What a file is, its content
decides; only inside folders and globs do names choose which files are looked at. Files give every frame in order;
cameras and streams give the newest, read by a thread of their own (`facexp.live`).
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from facexp.address import STDIN, address_problem, file_name, is_live, mistyped, shown
from facexp.shots import Source, reason

# HEIC is not read, but a folder full of it must say so instead of looking empty
MEDIA = re.compile(
    r".+\.(jpe?g|jpe|jfif|a?png|gif|bmp|tiff?|webp|avif|hei[cf]|jp2|p[bgpn]m"
    r"|mp4|m4v|mov|mkv|webm|avi|mpe?g|mts|m2ts|wmv|flv|ogv|3gp|y4m|mjpe?g)",
    re.IGNORECASE,
)
"""The names that are taken for photos and clips inside a folder or glob."""


def open_sources(names: Iterable[str], skip: Path | None = None) -> Iterator[Source]:
    """Each photo and clip that the names stand for, in natural order (photo2 before photo10).

    A name is a file, a folder (searched to its depths for photos and clips by suffix, hidden ones left out), a glob
    (`**` searches to the depths), a camera (0, /dev/video0), the address of a stream (rtsp://..., http://...), "-" for
    standard input, or "@list.txt": a text file with such names, as `listed` reads it. Nothing inside the folder `skip`
    is taken from a folder or glob: it is where results are written. A name without anything behind it gives one Source
    whose `problem` says so.
    """
    skip = None if skip is None else skip.resolve()
    for name, trouble in listed(names):
        if trouble is not None:
            yield Source(name, PurePath(Path(name).name), trouble)
            continue
        if name == STDIN or is_live(name):
            yield Source(shown(name), PurePath(file_name(name)), address_problem(name), name)
            continue
        path = Path(name)
        # an empty name would be the current directory
        if name and path.is_dir():
            found, what = _walk(path, PurePath(path.resolve().name), skip, ()), "this folder"
        elif glob.has_magic(name) and not path.exists():
            found, what = _glob(name, skip), "what this pattern matches"
        else:
            if name and path.exists():
                yield Source(name, PurePath(path.name))
            else:
                yield Source(mistyped(name), PurePath(Path(mistyped(name)).name), "no such file or folder")
            continue
        empty = True
        for source in found:
            empty = False
            yield source
        if empty:
            name = name if path.exists() else mistyped(name)
            yield Source(name, PurePath(Path(name).name), f"no photo or clip in {what}")


def listed(names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Each name, or, for "@list.txt", each name in that file; with the reason where a list cannot be read.

    A list is UTF-8 text with one name a line, as it would be given by itself: a relative one starts at the current
    directory. Blank lines and those that start with # are passed over.
    """
    for name in names:
        if not name.startswith("@"):
            yield name, None
            continue
        hint = f"(a file of this name is written ./{name})"
        try:
            with Path(name[1:]).open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                if "\0" in lines.read(1024):
                    yield name, f"is no list: it is not a text {hint}"
                    continue
                lines.seek(0)
                empty = True
                for line in lines:
                    entry = line.strip()
                    if entry and not entry.startswith("#"):
                        yield entry, "a list inside a list is not read" if entry.startswith("@") else None
                        empty = False
                if empty:
                    yield name, "this list names nothing"
        except OSError as error:
            yield name, f"this list cannot be read: {error.strerror} {hint}"


def root(name: str) -> Path:
    """The file or folder that a name stands for; for a glob the folder before its first part with a wildcard."""
    path = Path(name)
    if not glob.has_magic(name) or path.exists():
        return path
    return Path(*path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])


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
        yield Source(str(folder), save_as, reason(error))
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
