"""Folders and globs -> the names of the files inside, in natural order (photo2 before photo10).

As in a shell, hidden files and folders are found only where a pattern writes their dot out, and `**` stands for any
number of folders. Unlike the standard library's, it follows links without going round in their circles, and what cannot
be looked into is told instead of passed over.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from facexp.errors import reason

_DEEP = "**"


class Match(NamedTuple):
    """A file or folder that a pattern matches."""

    path: Path
    """Relative where the pattern is."""
    problem: str | None = None
    """Why this folder, which has to be looked into, cannot be; None for a match."""


class Folder(NamedTuple):
    """One of the folders that `folders` finds."""

    path: Path
    inside: PurePath
    """Its name inside the folder where the search began."""
    files: list[str]
    """The names of what is in it and is no folder, in natural order, hidden ones left out."""
    problem: str | None = None
    """Why it cannot be looked into; None where it can."""


def is_pattern(name: str) -> bool:
    """Whether the name is a glob: it has wildcards, and there is nothing of that very name."""
    return glob.has_magic(name) and path_problem(Path(name)) is not None


def is_deep(pattern: str) -> bool:
    """Whether the pattern searches folders to their depths by itself."""
    return _DEEP in _split(pattern)[1]


def root(name: str) -> Path:
    """The file or folder that a name stands for; for a glob the folder before its first part with a wildcard."""
    return _split(name)[0] if is_pattern(name) else Path(name)


def real_path(path: str | Path) -> Path:
    """The path without links, as far as they can be followed."""
    # pathlib's own refuses links that lead in a circle
    return Path(os.path.realpath(path))


def path_problem(path: Path) -> str | None:
    """Why nothing can be found behind a path; None where there is something."""
    try:
        path.stat()
    except OSError as error:
        return reason(error)
    return None


def is_folder(path: Path) -> bool:
    """Whether the path leads to a folder; False, too, where it cannot be followed."""
    return path_problem(path) is None and path.is_dir()


def is_inside(path: Path, folder: Path | None) -> bool:
    """Whether a path, its links followed, is the folder (a real path) or inside it; False where there is none."""
    return folder is not None and real_path(path).is_relative_to(folder)


def natural(name: str) -> str:
    """A key that sorts photo2 before photo10, capitals with small letters."""
    # one flat text, because a million keys of nested lists weigh more than the names
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name.casefold()) + "\0" + name


def expand(pattern: str, skip: Path | None = None) -> Iterator[Match]:
    """What a glob (see `is_pattern`) matches, each once. The folder `skip`, a real path, is not entered."""
    start, parts = _split(pattern)
    if is_inside(start, skip):
        return
    found = _expand(start, parts, skip)
    # several `**` may share the folders between them in several ways
    yield from dict.fromkeys(found) if parts.count(_DEEP) > 1 else found


def folders(path: Path, skip: Path | None = None) -> Iterator[Folder]:
    """A folder and those in it to their depths, each before those that it holds; hidden ones and `skip` left out."""
    for each in _listings(path, skip):
        yield Folder(each.path, each.inside, _shown(each.files), each.problem)


def _split(pattern: str) -> tuple[Path, list[str]]:
    """What stands before the first wildcard, and the parts from there on; the last is "" where only folders match."""
    path = Path(pattern)
    parts = [""] if pattern.endswith(("/", os.sep)) and path.name != _DEEP else []
    while glob.has_magic(str(path)):
        parts.insert(0, path.name)
        path = path.parent
    return path, parts


class _Listing(NamedTuple):
    """The names of what one folder holds, hidden ones too: a million of them weigh less than `os.scandir`'s entries."""

    path: Path
    inside: PurePath
    real: Path
    files: list[str]
    folders: list[str]
    links: set[str]
    problem: str | None = None

    def matching(self, part: str, skip: Path | None) -> list[str]:
        """Those that one part of a pattern matches, in natural order; what leads into `skip` is left out."""
        hidden = _is_hidden(part)
        names = [name for name in (*self.files, *self.folders) if hidden or not _is_hidden(name)]
        found = sorted(fnmatch.filter(names, part), key=natural)
        return found if skip is None else [name for name in found if not self._leads_into(name, skip)]

    def _leads_into(self, name: str, skip: Path) -> bool:
        # this folder is not inside: asked once, not for each of its files
        if name in self.links:
            return is_inside(self.path / name, skip)
        return name == skip.name and self.real == skip.parent


def _list(path: Path, inside: PurePath, real: Path) -> _Listing:
    """Raises OSError where the folder cannot be looked into."""
    listing = _Listing(path, inside, real, [], [], set())
    with os.scandir(path) as entries:
        for entry in entries:
            (listing.folders if _may_be_folder(entry) else listing.files).append(entry.name)
            if entry.is_symlink():
                listing.links.add(entry.name)
    return listing


def _listings(path: Path, skip: Path | None) -> Iterator[_Listing]:
    """As `folders`."""
    # levels are kept here, because Python ends where a thousand calls wait for each other
    levels = [iter([(path, PurePath(), real_path(path))])]
    above: dict[Path, None] = {}
    while levels:
        place = next(levels[-1], None)
        if place is None:
            levels.pop()
            if above:
                above.popitem()
            continue
        path, inside, real = place
        # a link may lead back to a folder above
        if real == skip or real in above:
            continue
        try:
            listing = _list(path, inside, real)
        except OSError as error:
            yield _Listing(path, inside, real, [], [], set(), reason(error))
            continue
        yield listing
        levels.append(_below(listing))
        above[real] = None


def _below(listing: _Listing) -> Iterator[tuple[Path, PurePath, Path]]:
    """Of each folder in one what `_list` takes."""
    for name in _shown(listing.folders):
        path = listing.path / name
        # to follow the whole path each time would take longer with each level
        real = real_path(path) if name in listing.links else listing.real / name
        yield path, listing.inside / name, real


def _expand(start: Path, parts: Sequence[str], skip: Path | None, listing: _Listing | None = None) -> Iterator[Match]:
    """The matches of the parts below `start`, which is not inside `skip`; `listing` is what it holds, where known."""
    part, rest = parts[0], parts[1:]
    if part == "":
        if is_folder(start):
            yield Match(start)
    elif part == _DEEP:
        if not is_folder(start):
            return
        for each in _listings(start, skip):
            # a link may lead to a folder deep inside
            if skip is not None and each.real.is_relative_to(skip):
                continue
            if each.problem is not None:
                yield Match(each.path, each.problem)
            elif rest:
                yield from _expand(each.path, rest, skip, each)
            else:
                yield from (Match(each.path / name) for name in _shown(each.files))
    elif not glob.has_magic(part):
        path = start / part
        if not is_inside(path, skip):
            if rest:
                yield from _expand(path, rest, skip)
            elif os.path.lexists(path):
                yield Match(path)
    else:
        try:
            listing = listing or _list(start, PurePath(), real_path(start))
        except (FileNotFoundError, NotADirectoryError):
            # an earlier wildcard matched what is no folder
            return
        except OSError as error:
            yield Match(start, reason(error))
            return
        for name in listing.matching(part, skip):
            if rest:
                yield from _expand(start / name, rest, skip)
            else:
                yield Match(start / name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _shown(names: list[str]) -> list[str]:
    """Without hidden ones, in natural order."""
    return sorted((name for name in names if not _is_hidden(name)), key=natural)


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # a link that cannot be followed: going there says why
        return True
