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


def natural(name: str) -> str:
    """A key that sorts photo2 before photo10, capitals with small letters."""
    # one flat text, because a million keys of nested lists weigh more than the names
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name.casefold()) + "\0" + name


def expand(pattern: str, skip: Path | None = None) -> Iterator[Match]:
    """What a glob matches, each once. Nothing in the folder `skip`, a real path, is a match."""
    start, parts = _split(pattern)
    found = _expand(start, parts, skip)
    if parts.count(_DEEP) > 1:
        # there may be several ways to share the folders between them
        found = iter(dict.fromkeys(found))
    for match in found:
        if skip is None or not real_path(match.path).is_relative_to(skip):
            yield match


def folders(path: Path, skip: Path | None = None) -> Iterator[Folder]:
    """A folder and those in it to their depths, each before those that it holds; hidden ones and `skip` left out."""
    return _folders(path, PurePath(), skip, ())


def _split(pattern: str) -> tuple[Path, list[str]]:
    """What stands before the first wildcard, and the parts from there on; the last is "" where only folders match."""
    path = Path(pattern)
    parts = [""] if pattern.endswith(("/", os.sep)) and path.name != _DEEP else []
    while glob.has_magic(str(path)):
        parts.insert(0, path.name)
        path = path.parent
    return path, parts


def _expand(start: Path, parts: Sequence[str], skip: Path | None) -> Iterator[Match]:
    if not parts:
        if os.path.lexists(start):
            yield Match(start)
        return
    part, rest = parts[0], parts[1:]
    if part == "":
        if is_folder(start):
            yield Match(start)
    elif part == _DEEP:
        if not is_folder(start):
            return
        for folder in folders(start, skip):
            if folder.problem is not None:
                yield Match(folder.path, folder.problem)
            elif rest:
                yield from _expand(folder.path, rest, skip)
            else:
                yield from (Match(folder.path / name) for name in folder.files)
    elif not glob.has_magic(part):
        yield from _expand(start / part, rest, skip)
    else:
        try:
            names = [path.name for path in start.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            # an earlier wildcard matched what is no folder
            return
        except OSError as error:
            yield Match(start, reason(error))
            return
        for name in sorted(fnmatch.filter(names, part), key=natural):
            if part.startswith(".") or not name.startswith("."):
                yield from _expand(start / name, rest, skip)


def _folders(path: Path, inside: PurePath, skip: Path | None, above: tuple[Path, ...]) -> Iterator[Folder]:
    real = real_path(path)
    # a link may lead back to a folder above
    if real == skip or real in above:
        return
    files: list[str] = []
    below: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (below if _may_be_folder(entry) else files).append(entry.name)
    except OSError as error:
        yield Folder(path, inside, [], reason(error))
        return
    yield Folder(path, inside, sorted(files, key=natural))
    for name in sorted(below, key=natural):
        yield from _folders(path / name, inside / name, skip, (*above, real))


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # a link that cannot be followed: going there says why
        return True
