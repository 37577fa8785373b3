"""The files in folders and those that match globs, in natural order (photo2 before photo10).

As in a shell, hidden files and folders match only where the pattern spells out their dot, and `**` stands for any
number of folders. Unlike the standard library's `glob`, this follows links without running into loops, and reports
folders that cannot be read instead of skipping them.
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

_RECURSIVE = "**"


class Match(NamedTuple):
    """A file or folder that matches a pattern, or a folder that has to be searched but cannot be read."""

    path: Path
    """Relative if the pattern is relative."""
    problem: str | None = None
    """Why the folder cannot be read; None for a match."""


def is_pattern(name: str) -> bool:
    """Whether the name is a glob: it has wildcards, and no file or folder has exactly this name."""
    return glob.has_magic(name) and path_problem(Path(name)) is not None


def is_recursive(pattern: str) -> bool:
    """Whether the pattern contains `**` and so searches folders recursively."""
    return _RECURSIVE in _split(pattern)[1]


def root(name: str) -> Path:
    """The file or folder that a name stands for; for a glob, the folder before its first part with a wildcard."""
    return _split(name)[0] if is_pattern(name) else Path(name)


def real_path(path: str | Path) -> Path:
    """The absolute path with its links resolved, as far as that is possible."""
    # Path.resolve() raises an error for links that form a loop
    return Path(os.path.realpath(path))


def path_problem(path: Path) -> str | None:
    """Why a path cannot be followed to a file or folder; None where it can."""
    try:
        path.stat()
    except OSError as error:
        return reason(error)
    return None


def is_folder(path: Path) -> bool:
    """Whether the path leads to a folder; False also where it cannot be followed."""
    return path_problem(path) is None and path.is_dir()


def is_inside(path: Path, folder: Path | None) -> bool:
    """Whether a path, with its links resolved, is the folder (a real path) or inside it; False if `folder` is None."""
    return folder is not None and real_path(path).is_relative_to(folder)


def natural(name: str) -> str:
    """A sort key for natural order: photo2 before photo10, and upper case next to lower case."""
    # one flat string, because a million keys made of nested lists take more memory than the names
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name.casefold()) + "\0" + name


def expand(pattern: str, skip: Path | None = None) -> Iterator[Match]:
    """Yield each match of a glob (see `is_pattern`) once. The folder `skip`, a real path, is not entered."""
    start, parts = _split(pattern)
    if is_inside(start, skip):
        return
    found = _expand(start, parts, skip)
    # with more than one `**`, the same path can match in several ways
    yield from dict.fromkeys(found) if parts.count(_RECURSIVE) > 1 else found


def _split(pattern: str) -> tuple[Path, list[str]]:
    """The path before the first part with a wildcard, and the parts from there on.

    The last part is "" for a pattern that ends with a slash and so matches only folders.
    """
    path = Path(pattern)
    parts = [""] if pattern.endswith(("/", os.sep)) and path.name != _RECURSIVE else []
    while glob.has_magic(str(path)):
        parts.insert(0, path.name)
        path = path.parent
    return path, parts


class Folder(NamedTuple):
    """A folder and the names of its entries, hidden ones included. A name takes less memory than an `os.DirEntry`."""

    path: Path
    relative_path: PurePath
    """The path relative to the folder where the search began."""
    real: Path
    """The path with its links resolved."""
    files: list[str]
    folders: list[str]
    links: set[str]
    """Which of the files and folders are symbolic links."""
    problem: str | None = None
    """Why the folder cannot be read; None where it can."""

    def visible_files(self) -> list[str]:
        """The names of the entries that are not folders, in natural order, without hidden ones."""
        return _visible(self.files)

    def matching(self, part: str, skip: Path | None) -> list[str]:
        """The names that match one part of a pattern, in natural order, without those that lead into `skip`."""
        hidden = _is_hidden(part)
        names = [name for name in (*self.files, *self.folders) if hidden or not _is_hidden(name)]
        found = sorted(fnmatch.filter(names, part), key=natural)
        return found if skip is None else [name for name in found if not self._leads_into(name, skip)]

    def _leads_into(self, name: str, skip: Path) -> bool:
        # the caller has checked that this folder is not inside `skip`, so only links have to be resolved
        if name in self.links:
            return is_inside(self.path / name, skip)
        return name == skip.name and self.real == skip.parent


def _list(path: Path, relative_path: PurePath, real: Path) -> Folder:
    """List a folder. Raises OSError where it cannot be read."""
    listing = Folder(path, relative_path, real, [], [], set())
    with os.scandir(path) as entries:
        for entry in entries:
            (listing.folders if _may_be_folder(entry) else listing.files).append(entry.name)
            if entry.is_symlink():
                listing.links.add(entry.name)
    return listing


def folders(path: Path, skip: Path | None = None) -> Iterator[Folder]:
    """Yield a folder and, recursively, its subfolders, parents first, without hidden ones and `skip` (a real path)."""
    # an explicit stack, because folders may be nested more deeply than Python's recursion limit
    stack = [iter([(path, PurePath(), real_path(path))])]
    # the folders on the way to the current one, in order
    ancestors: dict[Path, None] = {}
    while stack:
        folder = next(stack[-1], None)
        if folder is None:
            stack.pop()
            if ancestors:
                ancestors.popitem()
            continue
        path, relative_path, real = folder
        # a link may lead back to an ancestor
        if real == skip or real in ancestors:
            continue
        try:
            listing = _list(path, relative_path, real)
        except OSError as error:
            yield Folder(path, relative_path, real, [], [], set(), reason(error))
            continue
        yield listing
        stack.append(_subfolders(listing))
        ancestors[real] = None


def _subfolders(listing: Folder) -> Iterator[tuple[Path, PurePath, Path]]:
    """The arguments of `_list` for each visible subfolder."""
    for name in _visible(listing.folders):
        path = listing.path / name
        # only links are resolved: resolving the whole path each time would take longer at each level
        real = real_path(path) if name in listing.links else listing.real / name
        yield path, listing.relative_path / name, real


def _expand(start: Path, parts: Sequence[str], skip: Path | None, listing: Folder | None = None) -> Iterator[Match]:
    """Yield the matches of the parts below `start`, which is not inside `skip`; `listing` is its listing, if known."""
    part, rest = parts[0], parts[1:]
    if part == "":
        if is_folder(start):
            yield Match(start)
    elif part == _RECURSIVE:
        if not is_folder(start):
            return
        for each in folders(start, skip):
            # a link may lead to a folder deep inside `skip`
            if skip is not None and each.real.is_relative_to(skip):
                continue
            if each.problem is not None:
                yield Match(each.path, each.problem)
            elif rest:
                yield from _expand(each.path, rest, skip, each)
            else:
                yield from (Match(each.path / name) for name in each.visible_files())
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
            # an earlier wildcard matched something that is not a folder
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


def _visible(names: list[str]) -> list[str]:
    """The names without hidden ones, in natural order."""
    return sorted((name for name in names if not _is_hidden(name)), key=natural)


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # a link that cannot be followed: listing it as a folder reports why
        return True
