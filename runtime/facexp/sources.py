"""Names of photos, folders, globs, lists, clips, cameras and streams -> pictures, one at a time.

    for source in open_sources(["holiday", "clips/*.mp4", "@more.txt", "rtsp://camera/live"]):
        for shot in source.shots():
            shot.image          # BGR (H, W, 3) uint8

Only names are kept in memory, of one folder at a time; a clip gives one frame at a time. What a file is, its content
decides; only inside folders and globs do names choose which files are looked at. Files give every frame in order;
cameras and streams give the newest, read by a thread of their own (`facexp.live`).
"""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from facexp.address import STDIN, address_problem, file_name, is_live, mistyped, shown
from facexp.globs import expand, folders, is_deep, is_folder, is_pattern, path_problem, real_path, root
from facexp.shots import Source

# HEIC is not read, but a folder full of it must say so instead of looking empty
MEDIA = re.compile(
    r".+\.(jpe?g|jpe|jfif|a?png|gif|bmp|tiff?|webp|avif|hei[cf]|jp2|p[bgpn]m"
    r"|dib|mp4|m4v|mov|mkv|webm|avi|mpe?g|m[12]v|vob|mts|m2ts|wmv|asf|flv|ogv|3gp|y4m|ivf|mjpe?g|h?264)",
    re.IGNORECASE | re.DOTALL,
)
"""The names that are taken for photos and clips inside a folder or glob; .ts, which programs have too, is none."""


class Listed(NamedTuple):
    """A name that is no list any more."""

    name: str
    """As it was given, or as it stands in a list."""
    problem: str | None = None
    """Why a list cannot be read; None for everything else."""


Name = str | os.PathLike[str]


def open_sources(names: Iterable[Name | Listed], skip: Path | None = None) -> Iterator[Source]:
    """Each photo and clip that the names stand for, in natural order (photo2 before photo10).

    A name is a file, a folder (searched to its depths for photos and clips by suffix, hidden ones left out), a glob
    (`**` searches to the depths; where it spells a suffix out, that is taken whatever it is), a camera (0,
    /dev/video0), the address of a stream (rtsp://..., http://...), "-" for standard input, or "@list.txt": a text file
    with such names, as `listed` reads it. Nothing inside the folder `skip` is taken from a folder or glob: it is where
    results are written. A name without anything behind it gives one Source whose `problem` says so. Raises ValueError
    where `names` is one name, whose letters would pass for names.
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
        problem = path_problem(path) if name else "no such file or folder"
        named = name if problem is None else mistyped(name)
        found: Iterator[Source] = iter(())
        if problem is None and path.is_dir():
            found, problem = _walk(path, PurePath(real_path(path).name), skip), "no photo or clip in this folder"
        elif is_pattern(name):
            found, problem = _glob(name, skip), "no photo or clip in what this pattern matches"
        first = next(found, None)
        if first is None:
            yield Source(named, PurePath(Path(named).name), problem)
        else:
            yield first
            yield from found


def listed(names: Iterable[Name | Listed]) -> Iterator[Listed]:
    """Each name, or, for "@list.txt", each name in that file; with the reason where a list cannot be read.

    A list is UTF-8 text with one name a line, as it would be given by itself: a relative one starts at the current
    directory. Blank lines and those that start with # are passed over; blanks around a name are left out where it leads
    to something only without them. What was listed before is handed on as it is, since a list that comes through a pipe
    can be read only once. Raises ValueError where `names` is one name.
    """
    if isinstance(names, (str, bytes, os.PathLike)):
        raise ValueError(f"names must be several names, got one: put {names!r} into a list")
    for given in names:
        if isinstance(given, Listed):
            yield given
            continue
        name = os.fspath(given)
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
                    if line.strip() and not line.strip().startswith("#"):
                        entry = _entry(line.removesuffix("\n"))
                        yield Listed(entry, _no_entry(entry))
                        empty = False
                if empty:
                    yield Listed(named, "this list names nothing")
        except OSError as error:
            yield Listed(named, f"this list cannot be read: {error.strerror or error} {hint}")


def _entry(line: str) -> str:
    """The name in a line of a list."""
    name = line.strip()
    # a file's name may begin or end with a blank, but most blanks were left by whoever wrote the list
    if name == line or "\0" in line or path_problem(Path(line)) is None:
        return line
    leads = name == STDIN or name.startswith("@") or is_live(name) or is_pattern(name)
    return name if leads or path_problem(Path(name)) is None else line


def _no_entry(entry: str) -> str | None:
    """Why a line of a list is no name; None where it is one."""
    if entry.startswith("@"):
        return "a list inside a list is not read"
    return "holds a zero byte, as no name does" if "\0" in entry else None


def _walk(folder: Path, save_as: PurePath, skip: Path | None) -> Iterator[Source]:
    for each in folders(folder, skip):
        if each.problem is not None:
            yield Source(str(each.path), save_as / each.inside, each.problem)
        for name in each.files:
            if MEDIA.fullmatch(name):
                yield Source(str(each.path / name), save_as / each.inside / name)


def _glob(pattern: str, skip: Path | None) -> Iterator[Source]:
    fixed, deep, suffix = root(pattern), is_deep(pattern), PurePath(pattern).suffix.lower()
    named = suffix and not is_pattern(suffix)
    for path, problem in expand(pattern, skip):
        save_as = PurePath(*(part for part in path.relative_to(fixed).parts if part != ".."))
        if problem is not None:
            yield Source(str(path), save_as, problem)
        elif is_folder(path):
            # a deep pattern names the files inside by itself
            if not deep:
                yield from _walk(path, save_as, skip)
        elif MEDIA.fullmatch(path.name) or (named and path.suffix.lower() == suffix):
            yield Source(str(path), save_as)
