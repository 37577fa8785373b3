"""The plan of a job: the names of all its sources, divided into parts, which workers take one at a time."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facexp.address import STDIN, is_live, redacted
from facexp.errors import one_line
from facexp.many.stores import NOT_UTF8, PARQUET, ManyError, Store, StoreCache, is_address, is_wild
from facexp.sources import MEDIA, listed, open_sources
from facexp.sources.globs import Match, expand, folders, is_inside, is_pattern, path_problem, real_path

MAX_PART_SOURCES = 1000
"""Maximum number of sources in one part, which is done again when its worker dies."""
MIN_PARTS_PER_WORKER = 16
"""Minimum number of parts for each worker, given enough sources, so that at the end none waits long for the others."""

ITEM_SCHEMA = pa.schema(
    [
        pa.field("part", pa.int32(), nullable=False),
        pa.field("store", pa.int16()),
        pa.field("path", pa.binary(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("problem", pa.string()),
    ]
)
"""Columns of the table that describes a part to its worker: one row for each source."""

_PARALLEL_READS = 16
_NOTHING = "no file here that can be read"
_IMAGE_COLUMNS = ("image", "bytes")


@dataclass(frozen=True, slots=True)
class Item:
    """One source of the job: a file, or a row of a table."""

    path: str
    """Its name on disk, or its path in the store."""
    store: int | None = None
    """Index of its store in `Plan.stores`; None for a photo or clip on disk."""
    row: int | None = None
    """Number of the row in the Parquet file, from 0; None for a file."""
    problem: str | None = None
    """Why it cannot be read; None if it can."""

    def name(self, stores: list[Store]) -> str:
        """Return its name in records."""
        name = self.path if self.store is None else stores[self.store].name(self.path)
        return name if self.row is None else f"{name}#{self.row}"


@dataclass(slots=True)
class Plan:
    """The sources of a job, each once, and the stores that hold them."""

    stores: list[Store] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    results: tuple[Store, str] | None = None
    """Store and folder of the job's own results, which are never sources."""
    _cache: StoreCache = field(default_factory=StoreCache, repr=False)

    @classmethod
    def of(cls, names: Iterable[str], skip: Path | None = None, results: tuple[Store, str] | None = None) -> Plan:
        """Find all sources that the names stand for, in the order of the names.

        Names that end in .parquet are tables with a picture in each row. Folders and globs on disk leave out everything
        inside `skip`; those in a store leave out everything inside `results`, a store and the folder in it. Raises
        ManyError for cameras, streams and standard input, and for an address that cannot be opened.
        """
        plan, skip = cls(results=results), None if skip is None else real_path(skip)
        found = itertools.chain.from_iterable(plan._find(name, problem, skip) for name, problem in listed(names))
        # a source that is named twice is analysed once, so that the rows with one name come from one source
        unique: dict[Item, Item] = {}
        here = str(Path.cwd())
        for item in found:
            unique.setdefault(plan._key(item, here), item)
        plan.items = list(unique.values())
        return plan

    @property
    def relative(self) -> bool:
        """Whether a source has a name relative to the directory where the job was started."""
        return any(is_relative(item.name(self.stores)) for item in self.items)

    def parts(self, items: list[Item], workers: int, first: int) -> list[pa.Table]:
        """Divide the items into parts, numbered from `first`; return each as a table with the schema ITEM_SCHEMA."""
        size = max(1, min(MAX_PART_SOURCES, -(-len(items) // (workers * MIN_PARTS_PER_WORKER))))
        starts = range(0, len(items), size)
        return [_table(number, items[start : start + size]) for number, start in enumerate(starts, first)]

    def _find(self, name: str, problem: str | None, skip: Path | None) -> Iterator[Item]:
        if problem is not None:
            yield Item(name, problem=problem)
        elif is_address(name):
            store, path = self._cache.open(name)
            wanted = PARQUET if _is_table(path) else MEDIA
            yield from self._files(store, path, wanted)
        elif name == STDIN or is_live(name):
            raise ManyError(f"{redacted(name)}: a camera, stream or pipe cannot be read by many workers")
        elif _is_table(name):
            yield from self._tables(name, skip)
        else:
            for source in open_sources([name], skip):
                yield Item(source.name, problem=source.problem)

    def _files(self, store: Store, path: str, wanted: re.Pattern[str]) -> Iterator[Item]:
        number = self._number(store)
        # a list may name a million files, so the worker finds out whether a file exists
        if store.scheme and wanted is MEDIA and not is_wild(path) and MEDIA.fullmatch(path.rpartition("/")[2]):
            yield Item(path, number)
            return
        files, own = list[str](), self._own(store)
        try:
            files = [file for file in store.find(path, wanted) if file == path or not file.startswith(own)]
            problem = None if files else _NOTHING
        except FileNotFoundError:
            problem = "no such file or folder"
        except UnicodeError:
            problem = f"cannot be read: {NOT_UTF8}"
        # a pattern such as [z-a] raises re.error
        except (OSError, re.error, pa.ArrowException) as error:
            problem = f"cannot be read: {one_line(error)}"
        if problem is not None:
            yield Item(path, number, problem=problem)
        elif wanted is PARQUET:
            yield from self._rows(store, path, files)
        else:
            yield from (Item(file, number) for file in files)

    def _tables(self, name: str, skip: Path | None) -> Iterator[Item]:
        """Yield the rows of tables on disk. Arrow's own search is not used, as it follows circular links endlessly."""
        store, _ = Store.of(name)
        number = self._number(store)
        found = list(expand(name)) if is_pattern(name) else []
        for path, problem in found or [Match(Path(name))]:
            problem = problem or path_problem(path)
            if is_inside(path, skip):
                # the job's own results, which are a folder of tables, too
                continue
            if problem is not None:
                yield Item(str(path), number, problem=problem)
            elif path.is_dir():
                files = []
                for folder in folders(path, skip):
                    if folder.problem is not None:
                        yield Item(str(folder.path), number, problem=folder.problem)
                    files += [str(folder.path / each) for each in folder.visible_files() if PARQUET.fullmatch(each)]
                yield from self._rows(store, str(path), files)
            elif path.is_file():
                yield from self._rows(store, str(path), [str(path)])
            else:
                yield Item(str(path), number, problem="is neither a file nor a folder")

    def _rows(self, store: Store, named: str, files: list[str]) -> Iterator[Item]:
        """Yield the rows of Parquet files that were found under a name."""
        number, empty = self._number(store), True
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            for file, (rows, problem) in zip(files, pool.map(lambda each: _count(store, each), files), strict=True):
                empty = empty and problem is None and rows == 0
                if problem is not None:
                    yield Item(file, number, problem=problem)
                yield from (Item(file, number, row) for row in range(rows))
        if empty:
            yield Item(named, number, problem="has no rows" if files else _NOTHING)

    def _key(self, item: Item, here: str) -> Item:
        """Return an item that is equal for all names of a file, except for names that lead to it through links."""
        if item.store is not None and self.stores[item.store].scheme:
            return item
        path = canonical_name(item.path, here)
        return item if path == item.path else Item(path, item.store, item.row, item.problem)

    def _own(self, store: Store) -> tuple[str, ...]:
        """Return the path prefix of the job's own results in a store; empty if they are elsewhere."""
        if self.results is None or self.results[0].filesystem != store.filesystem:
            return ()
        return (f"{self.results[1]}/",)

    def _number(self, store: Store) -> int:
        # a list is enough: there is at most one store for each address
        if store not in self.stores:
            self.stores.append(store)
        return self.stores.index(store)


def canonical_name(name: str, here: str) -> str:
    """Return the canonical name of a source: ./a.jpg and a.jpg are both a.jpg. Links are not resolved.

    It is relative to `here`, the current directory, for files inside that, else absolute. Addresses are unchanged.
    """
    # most names are canonical already; returning the same string saves time and memory for a million names
    odd = "/." in name or "//" in name or name.startswith(".") or name.endswith("/")
    return (absolute_name(name, here) if odd else name).removeprefix(here.rstrip("/") + "/")


def absolute_name(name: str, start: str) -> str:
    """Return the absolute name of a source, where relative names are relative to `start`; an address is unchanged."""
    if is_address(name):
        return name
    path = os.path.join(start, name)  # noqa: PTH118
    normal = os.path.normpath(path)
    # `..` after a link does not lead back to the folder that contains the link, so the path may have to keep it
    return path if "/../" in name.lstrip("./") and real_path(path) != real_path(normal) else normal


def is_relative(name: str) -> bool:
    """Return whether the name of a source is relative to the directory where the job was started."""
    return not is_address(name) and not os.path.isabs(name)  # noqa: PTH117


def items(table: pa.Table) -> list[Item]:
    """Return the items of a part from its table."""
    columns = (table.column(name).to_pylist() for name in ("path", "store", "row", "problem"))
    return [Item(os.fsdecode(path), *others) for path, *others in zip(*columns, strict=True)]


def image_column(schema: pa.Schema) -> tuple[str, bool]:
    """Return the column of encoded pictures, and whether it holds structs with `bytes`, as Hugging Face writes them.

    It is the only column of binary values, or of several the one called `image` or `bytes`, in any case. Raises
    ValueError, with only the reason as its text, if there is no such column.
    """
    found = {each.name: pa.types.is_struct(each.type) for each in schema if _holds_bytes(each.type)}
    chosen = [name for name in found if name.lower() in _IMAGE_COLUMNS] if len(found) > 1 else list(found)
    if len(chosen) != 1:
        reason = f"has several columns of bytes ({', '.join(found)})" if found else "has no column of bytes"
        raise ValueError(f"{reason}: call the one with the encoded pictures {_IMAGE_COLUMNS[0]}")
    return chosen[0], found[chosen[0]]


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _count(store: Store, path: str) -> tuple[int, str | None]:
    """Return the number of rows of a Parquet file, and why they cannot be used or None."""
    try:
        with pq.ParquetFile(path, filesystem=store.filesystem) as file:
            image_column(file.schema_arrow)
            return file.metadata.num_rows, None
    except UnicodeError:
        return 0, f"cannot be read: {NOT_UTF8}"
    except ValueError as error:
        # raised by Arrow for a damaged file, and by image_column
        return 0, one_line(error)
    # Arrow raises other errors for files of a kind that it does not read
    except (OSError, pa.ArrowException) as error:
        return 0, f"cannot be read: {one_line(error)}"


def _is_table(name: str) -> bool:
    return PARQUET.fullmatch(name.rstrip("/").rpartition("/")[2]) is not None


def _table(part: int, chosen: list[Item]) -> pa.Table:
    columns = {
        "part": [part] * len(chosen),
        "store": [item.store for item in chosen],
        "path": [os.fsencode(item.path) for item in chosen],
        "row": [item.row for item in chosen],
        "problem": [item.problem for item in chosen],
    }
    return pa.table(columns, ITEM_SCHEMA)
