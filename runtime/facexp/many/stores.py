"""Folders and object stores by their addresses, as Ray Data resolves them: Arrow's file systems, else fsspec's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from facexp import photo
from facexp.address import SCHEMES, shown
from facexp.errors import FacexpError, one_line
from facexp.globs import folders, is_folder, natural

PARQUET = re.compile(r"[^_].*\.parquet", re.IGNORECASE | re.DOTALL)
"""The names that are taken for tables with a picture in each row."""

UNREAD = "cannot be read"
"""How errors of disks and stores begin, as in `facexp.errors.reason`: what they did not give is there another time."""

NOT_UTF8 = "a name is not valid UTF-8, which Arrow cannot open: rename it"
"""What is wrong where Arrow raises UnicodeError."""

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://([^/]*@)?(.+)", re.DOTALL)
# a ? begins the options of an address, such as ?region=
_WILD = re.compile(r"\*\*/|\*\*|\*|\[!?[^]]+\]")


class ManyError(FacexpError):
    """A job that cannot be started or cannot go on; one line."""


@dataclass(frozen=True, slots=True)
class Store:
    """One file system. Goes to the workers with whatever it needs to be opened there."""

    filesystem: Any = field(repr=False)
    scheme: str
    """What stands before :// in the names of its files; "" for this machine's own names."""

    @classmethod
    def of(cls, address: str) -> tuple[Store, str]:
        """The store of an address or of a local name, and the path in it. Raises ManyError where there is none."""
        found = _ADDRESS.fullmatch(address)
        if found is None:
            return cls(fs.LocalFileSystem(), ""), address
        scheme = found[1].lower()
        if scheme in SCHEMES:
            raise ManyError(f"{shown(address)}: a camera or stream cannot be read by many workers")
        quoted = f"{scheme}://{found[2] or ''}{quote(found[3], safe='/:?=&+@')}"
        try:
            filesystem, path = _resolve(address, quoted)
        # each store has errors of its own
        except Exception as error:
            said = one_line(error).replace(address, shown(address)).replace(quoted, shown(quoted))
            raise ManyError(f"{shown(address)}: cannot be opened ({said})") from None
        return cls(filesystem, scheme), path.rstrip("/")

    def name(self, path: str) -> str:
        """How a file of the store is called in records."""
        return f"{self.scheme}://{path}" if self.scheme else path

    @property
    def local(self) -> bool:
        """Whether a file can be given its name when it is whole; in an object store it appears whole by itself."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def find(self, path: str, wanted: re.Pattern[str]) -> Iterator[str]:
        """The files of a path in natural order: itself, those of the folder whose names match, or what a glob matches.

        Raises OSError where there is no such path or it cannot be looked at, UnicodeError for one that is not UTF-8.
        """
        info = self.filesystem.get_file_info(path)
        # what is there by this very name is no pattern, as on disk
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
        """All files in a folder, to its depths; on disk hidden ones may be left out."""
        if not self.local:
            selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
            return [info.path for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File]
        # Arrow's own search would go round in circles of links
        found = list[str]()
        for each in folders(Path(folder)) if is_folder(Path(folder)) else ():
            if each.problem is not None:
                raise OSError(f"{each.path}: {each.problem}")
            found += [str(path) for path in map(each.path.joinpath, each.files) if path.is_file()]
        return found

    def read(self, path: str) -> bytes:
        """A file's content. Raises OSError."""
        with self.filesystem.open_input_file(path) as file:
            if file.size() > photo.MAX_BYTES:
                raise OSError(None, f"is too large: of a store, files of at most {photo.MAX_BYTES >> 20} MB are read")
            return bytes(file.readall())


def is_address(name: str) -> bool:
    """Whether the name is the address of a store or stream."""
    return _ADDRESS.fullmatch(name) is not None


def is_wild(path: str) -> bool:
    """Whether the path of a store is a glob."""
    return _WILD.search(path) is not None


def _resolve(address: str, quoted: str) -> tuple[Any, str]:
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
    """A glob as a pattern of whole paths: * and [] stay inside a folder, ** goes through all."""
    parts, end = [], 0
    for wild in _WILD.finditer(pattern):
        parts.append(re.escape(pattern[end : wild.start()]))
        plain = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
        parts.append(plain.get(wild[0], wild[0].replace("[!", "[^")))
        end = wild.end()
    return re.compile("".join([*parts, re.escape(pattern[end:])]), re.DOTALL)
