"""Names of photos, folders, globs, lists, clips, cameras and streams -> pictures, one at a time.

    for source in open_sources(["holiday", "clips/*.mp4", "@more.txt", "rtsp://camera/live"]):
        for shot in source.shots():
            shot.image          # BGR (H, W, 3) uint8

Only names are kept in memory, of one folder at a time; a clip gives one frame at a time. What a file is, its content
decides; only inside folders and globs do names choose which files are looked at. Files give every frame in order;
cameras and streams give the newest, read by a thread of their own (`facexp.live`).
"""

from __future__ import annotations

import fnmatch
import glob
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from facexp.address import STDIN, address_problem, file_name, is_live, mistyped, shown
from facexp.shots import Source, reason

# HEIC is not read, but a folder full of it must say so instead of looking empty
MEDIA = re.compile(
    r".+\.(jpe?g|jpe|jfif|a?png|gif|bmp|tiff?|webp|avif|hei[cf]|jp2|p[bgpn]m"
    r"|mp4|m4v|mov|mkv|webm|avi|mpe?g|mts|m2ts|wmv|flv|ogv|3gp|y4m|mjpe?g)",
    re.IGNORECASE | re.DOTALL,
)
"""The names that are taken for photos and clips inside a folder or glob."""


class Listed(NamedTuple):
    """A name that is no list any more."""

    name: str
    """As it was given, or as it stands in a list."""
    problem: str | None = None
    """Why a list cannot be read; None for everything else."""


def open_sources(names: Iterable[str | Listed], skip: Path | None = None) -> Iterator[Source]:
    """Each photo and clip that the names stand for, in natural order (photo2 before photo10).

    A name is a file, a folder (searched to its depths for photos and clips by suffix, hidden ones left out), a glob
    (`**` searches to the depths), a camera (0, /dev/video0), the address of a stream (rtsp://..., http://...), "-" for
    standard input, or "@list.txt": a text file with such names, as `listed` reads it. Nothing inside the folder `skip`
    is taken from a folder or glob: it is where results are written. A name without anything behind it gives one Source
    whose `problem` says so.
    """
    skip = None if skip is None else real_path(skip)
    for name, trouble in listed(names):
        if trouble is not None:
            yield Source(name, PurePath(Path(name).name), trouble)
            continue
        if name == STDIN or is_live(name):
            yield Source(shown(name), PurePath(file_name(name)), address_problem(name), name)
            continue
        path = Path(name)
        # an empty name would be the current directory
        problem = _problem(path) if name else "no such file or folder"
        if problem is None and path.is_dir():
            found, what = _walk(path, PurePath(real_path(path).name), skip, ()), "this folder"
        elif problem is not None and glob.has_magic(name):
            found, what = _glob(name, skip), "what this pattern matches"
        else:
            name = name if problem is None else mistyped(name)
            yield Source(name, PurePath(Path(name).name), problem)
            continue
        empty = True
        for source in found:
            empty = False
            yield source
        if empty:
            name = name if problem is None else mistyped(name)
            yield Source(name, PurePath(Path(name).name), f"no photo or clip in {what}")


def listed(names: Iterable[str | Listed]) -> Iterator[Listed]:
    """Each name, or, for "@list.txt", each name in that file; with the reason where a list cannot be read.

    A list is UTF-8 text with one name a line, as it would be given by itself: a relative one starts at the current
    directory. Blank lines and those that start with # are passed over. What was listed before is handed on as it is,
    since a list that comes through a pipe can be read only once.
    """
    for name in names:
        if isinstance(name, Listed):
            yield name
            continue
        if not name.startswith("@"):
            yield Listed(name)
            continue
        named = mistyped(name)
        hint = f"(a file of this name is written ./{named})"
        try:
            with Path(name[1:]).open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                head = lines.read(1024)
                if "\0" in head:
                    yield Listed(named, f"is no list: it is not a text {hint}")
                    continue
                empty = True
                # the head may end inside a line, and a pipe cannot be turned back
                for line in itertools.chain(io.StringIO(head + lines.readline()), lines):
                    entry = line.strip()
                    if entry and not entry.startswith("#"):
                        yield Listed(entry, _no_entry(entry))
                        empty = False
                if empty:
                    yield Listed(named, "this list names nothing")
        except OSError as error:
            yield Listed(named, f"this list cannot be read: {error.strerror or error} {hint}")


def _no_entry(entry: str) -> str | None:
    """Why a line of a list is no name; None where it is one."""
    if entry.startswith("@"):
        return "a list inside a list is not read"
    return "holds a zero byte, as no name does" if "\0" in entry else None


def root(name: str) -> Path:
    """The file or folder that a name stands for; for a glob the folder before its first part with a wildcard."""
    path = Path(name)
    if not glob.has_magic(name) or _problem(path) is None:
        return path
    return Path(*path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])


def real_path(path: str | Path) -> Path:
    """The path without links, as far as they can be followed."""
    # pathlib's own refuses links that lead in a circle
    return Path(os.path.realpath(path))


def natural(name: str) -> str:
    """A key that sorts photo2 before photo10, capitals with small letters."""
    # one flat text, because a million keys of nested lists weigh more than the names
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name.casefold()) + "\0" + name


def _problem(path: Path) -> str | None:
    """Why nothing can be found behind a path; None where there is something."""
    try:
        path.stat()
    except OSError as error:
        return reason(error)
    return None


def _walk(folder: Path, save_as: PurePath, skip: Path | None, above: tuple[Path, ...]) -> Iterator[Source]:
    real = real_path(folder)
    # a link may lead back to a folder above
    if real == skip or real in above:
        return
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                media = MEDIA.fullmatch(entry.name) is not None
                try:
                    is_folder = entry.is_dir()
                except OSError:
                    # a link that cannot be followed: going there says why
                    is_folder = not media
                if is_folder:
                    folders.append(entry.name)
                elif media:
                    files.append(entry.name)
    except OSError as error:
        yield Source(str(folder), save_as, reason(error))
        return
    for name in sorted(files, key=natural):
        yield Source(str(folder / name), save_as / name)
    for name in sorted(folders, key=natural):
        yield from _walk(folder / name, save_as / name, skip, (*above, real))


def _glob(pattern: str, skip: Path | None) -> Iterator[Source]:
    fixed, parts = root(pattern), PurePath(pattern).parts
    deep = parts.index("**") if "**" in parts else len(parts)
    if any(part.startswith(".") for part in parts[deep:]):
        # hidden names, and ways back, are asked for
        deep = len(parts)
    start = pattern if deep == len(parts) else str(PurePath(*parts[:deep]))
    # pathlib's own glob shows hidden files and refuses absolute patterns
    for name in sorted(glob.iglob(start, recursive=True), key=natural):  # noqa: PTH207
        path = Path(name)
        if skip is not None and real_path(path).is_relative_to(skip):
            continue
        save_as = PurePath(*(part for part in path.relative_to(fixed).parts if part != ".."))
        if _problem(path) is None and path.is_dir():
            if "**" in parts[:deep]:
                # such a pattern names the files inside by itself
                continue
            # glob's own ** goes round in circles of links and passes over folders that it cannot read
            for source in _walk(path, save_as, skip, ()):
                inside = source.save_as.relative_to(save_as).parts
                if source.problem is not None or _fits(inside, parts[deep:] or ("**",)):
                    yield source
        elif deep == len(parts) and MEDIA.fullmatch(path.name):
            yield Source(name, save_as)


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path fit those of a pattern."""
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(_fits(names[i:], pattern[1:]) for i in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatch(names[0], pattern[0]) and _fits(names[1:], pattern[1:])
