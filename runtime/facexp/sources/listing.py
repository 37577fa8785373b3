"""Names of photos, folders, globs, lists, clips, cameras and streams -> their pictures, one at a time.

Only the names of one folder at a time are kept in memory, and a clip gives one frame at a time. A file's type is
detected from its content; its name only decides whether it is taken from a folder or glob. Files give every frame in
order; cameras and streams give the newest frame, read in a separate thread (`facexp.sources.live`).
"""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from facexp.address import STDIN, address_problem, file_name, is_live, redacted, redacted_unknown
from facexp.sources.globs import expand, folders, is_folder, is_pattern, is_recursive, path_problem, real_path, root
from facexp.sources.shots import Source

# HEIC cannot be read, but it is included so that a folder of HEIC files gives errors instead of looking empty
MEDIA = re.compile(
    r".+\.(jpe?g|jpe|jfif|a?png|gif|bmp|tiff?|webp|avif|hei[cf]|jp2|p[bgpn]m"
    r"|dib|mp4|m4v|mov|mkv|webm|avi|mpe?g|m[12]v|vob|mts|m2ts|wmv|asf|flv|ogv|3gp|y4m|ivf|mjpe?g|h?264)",
    re.IGNORECASE | re.DOTALL,
)
"""Matches the names of photos and clips inside a folder or glob; not .ts, which TypeScript files have, too."""


class Listed(NamedTuple):
    """A name after lists were expanded."""

    name: str
    """The name as it was given, or as it is written in a list."""
    problem: str | None = None
    """Why the list, or this line of it, cannot be used; None for everything else."""


Name = str | os.PathLike[str]


def open_sources(names: Iterable[Name | Listed], skip: Path | None = None) -> Iterator[Source]:
    """Yield a source for each photo and clip that the names stand for, in natural order (photo2 before photo10).

    A name is a file, a folder (searched recursively for photos and clips by suffix, without hidden ones), a glob (`**`
    searches recursively; a literal suffix at its end, whatever it is, adds the files with that suffix), a camera (0,
    /dev/video0), the address of a stream (rtsp://..., http://...), "-" for standard input, or "@list.txt": a text file
    with such names, read by `listed`.
    A `pathlib.Path` of a file or folder that exists is that, whatever its name: Path("0") is then no camera.
    Folders and globs leave out everything inside the folder `skip`, into which the results are written. A name that
    leads to nothing gives one Source whose `problem` says why. Raises ValueError if `names` is a single name, because
    its letters would be taken for names.
    """
    skip = None if skip is None else real_path(skip)
    for name, list_problem in listed(names):
        if list_problem is not None:
            yield Source(name, PurePath(Path(name).name), list_problem)
            continue
        if name == STDIN or is_live(name):
            yield Source(redacted(name), PurePath(file_name(name)), address_problem(name), name)
            continue
        path = Path(name)
        # Path("") would be the current directory
        problem = path_problem(path) if name else "no such file or folder"
        display_name = name if problem is None else redacted_unknown(name)
        found: Iterator[Source] = iter(())
        if problem is None and path.is_dir():
            found, problem = _walk(path, PurePath(real_path(path).name), skip), "no photo or clip in this folder"
        elif is_pattern(name):
            found, problem = _glob(name, skip), "no photo or clip in what this pattern matches"
        first = next(found, None)
        if first is None:
            yield Source(display_name, PurePath(Path(display_name).name), problem)
        else:
            yield first
            yield from found


def listed(names: Iterable[Name | Listed]) -> Iterator[Listed]:
    """Yield each name, or for "@list.txt" each name in that file; `problem` says why a list cannot be read.

    A list is a UTF-8 text file with one name on each line, written as on the command line: relative names start at the
    current directory. Blank lines and lines that start with # are skipped; spaces around a name are removed if the name
    leads to something only without them. A `Listed` is passed through unchanged, because a list that comes through a
    pipe can be read only once. Raises ValueError if `names` is a single name.
    """
    if isinstance(names, (str, bytes, os.PathLike)):
        raise ValueError(f"names must be several names, got one: put {names!r} into a list")
    for given in names:
        if isinstance(given, Listed):
            yield given
            continue
        name = os.fspath(given)
        special = name == STDIN or name.startswith("@") or (is_live(name) and "/" not in name)
        if special and isinstance(given, os.PathLike) and path_problem(Path(name)) is None:
            # pathlib drops the ./ with which such a file is written
            name = f"./{name}"
        if not name.startswith("@"):
            yield Listed(name)
            continue
        display_name = redacted_unknown(name)
        hint = f"(a file of this name is written ./{display_name})"
        try:
            with Path(name[1:]).open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                head = lines.read(1024)
                if "\0" in head:
                    yield Listed(display_name, f"is not a list: it is not a text file {hint}")
                    continue
                empty = True
                # the head may end inside a line, and a pipe cannot be rewound
                for line in itertools.chain(io.StringIO(head + lines.readline()), lines):
                    if line.strip() and not line.strip().startswith("#"):
                        entry = _entry(line.removesuffix("\n"))
                        yield Listed(entry, _entry_problem(entry))
                        empty = False
                if empty:
                    yield Listed(display_name, "this list contains no names")
        except OSError as error:
            yield Listed(display_name, f"this list cannot be read: {error.strerror or error} {hint}")


def _entry(line: str) -> str:
    """Return the name in a line of a list."""
    name = line.strip()
    # a file name may begin or end with a space, but usually such spaces are not part of the name
    if name == line or "\0" in line or path_problem(Path(line)) is None:
        return line
    not_a_path = name == STDIN or name.startswith("@") or is_live(name) or is_pattern(name)
    return name if not_a_path or path_problem(Path(name)) is None else line


def _entry_problem(entry: str) -> str | None:
    """Return why a line of a list is not a name; None if it is one."""
    if entry.startswith("@"):
        return "a list inside a list is not read"
    return "contains a zero byte, which no name can" if "\0" in entry else None


def _walk(folder: Path, save_as: PurePath, skip: Path | None) -> Iterator[Source]:
    for each in folders(folder, skip):
        if each.problem is not None:
            yield Source(str(each.path), save_as / each.relative_path, each.problem)
        for name in each.visible_files():
            if MEDIA.fullmatch(name):
                yield Source(str(each.path / name), save_as / each.relative_path / name)


def _glob(pattern: str, skip: Path | None) -> Iterator[Source]:
    base, recursive, suffix = root(pattern), is_recursive(pattern), PurePath(pattern).suffix.lower()
    literal_suffix = suffix and not is_pattern(suffix)
    for path, problem in expand(pattern, skip):
        save_as = PurePath(*(part for part in path.relative_to(base).parts if part != ".."))
        if problem is not None:
            yield Source(str(path), save_as, problem)
        elif is_folder(path):
            # a pattern with ** matches the files inside by itself
            if not recursive:
                yield from _walk(path, save_as, skip)
        elif MEDIA.fullmatch(path.name) or (literal_suffix and path.suffix.lower() == suffix):
            yield Source(str(path), save_as)
