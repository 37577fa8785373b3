"""Folders and object stores, opened by address as in Ray Data: with Arrow's file systems, else with fsspec's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from facexp.address import SCHEMES, redacted
from facexp.errors import FacexpError, one_line
from facexp.sources import photo
from facexp.sources.globs import folders, is_folder, natural

PARQUET = re.compile(r"[^_].*\.parquet", re.IGNORECASE | re.DOTALL)
"""Matches the names of tables with a picture in each row."""

READ_ERROR_PREFIX = "cannot be read"
"""Beginning of errors of disks and stores, as in `facexp.errors.reason`; such a source may be readable later."""

NOT_UTF8 = "a name is not valid UTF-8, which Arrow cannot open: rename it"
"""The reason when Arrow raises UnicodeError."""

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://([^/]*@)?(.+)", re.DOTALL)
# without empty parts, `.` and `..`, so that store, path and options can be distinguished without opening the store
_PLAIN_ADDRESS = re.compile(
    r"([^/]+://[^/?#]*/)((?:(?!\.{1,2}/)[^/?#]+/)*(?!\.{1,2}(?:\?|$))[^/?#]+)(\?.*)?", re.DOTALL
)
# ? is not a wildcard, because it begins the options of an address, such as ?region=
_WILD = re.compile(r"\*\*/|\*\*|\*|\[!?[^]]+\]")


class ManyError(FacexpError):
    """A job cannot start or cannot continue; the text is one line."""


@dataclass(frozen=True, slots=True)
class Store:
    """One file system. It is pickled to the workers with everything that they need to open it."""

    filesystem: Any = field(repr=False)
    """Arrow's `pyarrow.fs.FileSystem`."""
    scheme: str
    """What precedes :// in the names of its files; "" for local names."""

    @classmethod
    def of(cls, address: str) -> tuple[Store, str]:
        """Return the store of an address or local name, and the path in it. Raises ManyError if it cannot be opened."""
        found = _ADDRESS.fullmatch(address)
        if found is None:
            return cls(fs.LocalFileSystem(), ""), address
        scheme = found[1].lower()
        if scheme in SCHEMES:
            raise ManyError(f"{redacted(address)}: a camera or stream cannot be read by many workers")
        quoted = f"{scheme}://{found[2] or ''}{quote(found[3], safe='/:?=&+@')}"
        try:
            filesystem, path = _resolve(address, quoted)
        # each store raises its own kinds of errors
        except Exception as error:
            why = one_line(error).replace(address, redacted(address)).replace(quoted, redacted(quoted))
            raise ManyError(f"{redacted(address)}: cannot be opened ({why})") from None
        return cls(filesystem, scheme), path.rstrip("/")

    def name(self, path: str) -> str:
        """Return the name of a file of the store in records."""
        return f"{self.scheme}://{path}" if self.scheme else path

    @property
    def local(self) -> bool:
        """Whether this is a disk, so that programs can write to its files by their names."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def find(self, path: str, wanted: re.Pattern[str]) -> Iterator[str]:
        """Yield the files of a path whose names match `wanted`, in natural order.

        The path is a file, which is yielded whatever its name, a folder, which is searched recursively, or a glob.
        Hidden files are left out. Raises OSError if the path does not exist or cannot be read, UnicodeError if it is
        not UTF-8.
        """
        info = self.filesystem.get_file_info(path)
        # a path that exists is not a glob, even if it contains wildcards; the same holds on disk
        wild = _WILD.search(path) if info.type == fs.FileType.NotFound else None
        if wild is None:
            if info.type == fs.FileType.File:
                yield path
                return
            if info.type == fs.FileType.NotFound:
                raise FileNotFoundError(path)
            if info.type != fs.FileType.Directory:
                return
            start, matches = path, re.compile("")
        else:
            start, matches = path[: wild.start()].rpartition("/")[0], _glob(path)
        for each in sorted(self._files(start), key=natural):
            parts = each[len(start) :].lstrip("/").split("/")
            hidden = any(part.startswith(".") for part in parts)
            if not hidden and wanted.fullmatch(parts[-1]) and (wild is None or matches.fullmatch(each)):
                yield each

    def _files(self, folder: str) -> list[str]:
        """Return all files in a folder, recursively; on disk, hidden ones may be left out."""
        if not self.local:
            selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
            return [info.path for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File]
        # Arrow's own search would follow circular links endlessly
        found = list[str]()
        for each in folders(Path(folder)) if is_folder(Path(folder)) else ():
            if each.problem is not None:
                raise OSError(f"{each.path}: {each.problem}")
            found += [str(path) for path in map(each.path.joinpath, each.visible_files()) if path.is_file()]
        return found

    def read(self, path: str) -> bytes:
        """Return a file's content. Raises OSError if it cannot be read or is too large."""
        with self.filesystem.open_input_file(path) as file:
            if file.size() > photo.MAX_BYTES:
                raise OSError(None, f"is too large: files of at most {photo.MAX_BYTES >> 20} MB are read from a store")
            return bytes(file.readall())


@dataclass(frozen=True, slots=True)
class StoreCache:
    """Opens the stores of many addresses, each store only once, since opening one takes milliseconds."""

    _opened: dict[tuple[str, str | None], tuple[Store, str]] = field(default_factory=dict, repr=False)
    """Beginning and options of an address -> the store, and the beginning of the paths in it."""

    def open(self, address: str) -> tuple[Store, str]:
        """Return the same as `Store.of`."""
        found = _PLAIN_ADDRESS.fullmatch(address)
        if found is None or not address.isprintable():
            return Store.of(address)
        beginning, path, options = found.groups()
        if (beginning, options) in self._opened:
            store, folder = self._opened[beginning, options]
            return store, folder + path
        store, full_path = Store.of(address)
        if full_path.endswith(path):
            self._opened[beginning, options] = store, full_path.removesuffix(path)
        return store, full_path


def is_address(name: str) -> bool:
    """Return whether the name is the address of a store or stream."""
    return _ADDRESS.fullmatch(name) is not None


def is_wild(path: str) -> bool:
    """Return whether a path in a store is a glob."""
    return _WILD.search(path) is not None


def _resolve(address: str, quoted: str) -> tuple[Any, str]:
    """Return file system and path of an address, which Arrow takes percent-encoded (`quoted`) and fsspec as it is."""
    try:
        filesystem, path = fs.FileSystem.from_uri(quoted)
    except pa.ArrowInvalid as error:
        if "nrecognized filesystem type" not in str(error):
            raise
    else:
        return filesystem, path
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(address)
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


def _glob(pattern: str) -> re.Pattern[str]:
    """Translate a glob to a pattern of whole paths: * and [] match inside one folder, ** across any number of them."""
    parts, end = [], 0
    for wild in _WILD.finditer(pattern):
        parts.append(re.escape(pattern[end : wild.start()]))
        regexes = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
        parts.append(regexes.get(wild[0], wild[0].replace("[!", "[^")))
        end = wild.end()
    return re.compile("".join([*parts, re.escape(pattern[end:])]), re.DOTALL)
