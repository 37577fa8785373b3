"""What is to be analysed: the names of all pictures, cut into parts that a worker takes one at a time."""

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

from facexp.address import STDIN, is_live, shown
from facexp.errors import one_line
from facexp.globs import Match, expand, folders, is_inside, is_pattern, path_problem, real_path
from facexp.many.stores import NOT_UTF8, PARQUET, ManyError, Store, is_address, is_wild
from facexp.sources import MEDIA, listed, open_sources

PART = 1000
"""At most so many pictures in one part: what is done again when a worker dies."""
SHARE = 16
"""At least so many parts for each worker, so that in the end none waits long for the others."""

ITEMS = pa.schema(
    [
        pa.field("part", pa.int32(), nullable=False),
        pa.field("store", pa.int16()),
        pa.field("path", pa.binary(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("problem", pa.string()),
    ]
)
"""What a worker is told: one row a source."""

_READS = 16
_NOTHING = "nothing here that can be read"
_NAMED = ("image", "bytes")


@dataclass(frozen=True, slots=True)
class Item:
    """One source of the job: a file, or a row of a table."""

    path: str
    """Its name on disk, or its path in the store."""
    store: int | None = None
    """Number of its store; None for a photo or clip on disk."""
    row: int | None = None
    """Which row of the Parquet file, from 0; None for a file."""
    problem: str | None = None
    """Why there is nothing to read; None where there is."""

    def name(self, stores: list[Store]) -> str:
        """What records call it."""
        name = self.path if self.store is None else stores[self.store].name(self.path)
        return name if self.row is None else f"{name}#{self.row}"


@dataclass(slots=True)
class Plan:
    """The sources of a job, each once, and the stores they lie in."""

    stores: list[Store] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    results: tuple[Store, str] | None = None
    """Store and folder of the job's own results, which are no sources."""

    @classmethod
    def of(cls, names: Iterable[str], skip: Path | None = None, results: tuple[Store, str] | None = None) -> Plan:
        """All that the names stand for, in their order; nothing inside `skip` is taken from a folder or glob.

        Nor is anything inside `results`, a store and the folder in it, from those of a store.

        Names that end in .parquet are tables with a picture in each row. Raises ManyError for cameras, streams and
        standard input, and for an address that cannot be opened.
        """
        plan, skip = cls(results=results), None if skip is None else real_path(skip)
        found = itertools.chain.from_iterable(plan._find(name, trouble, skip) for name, trouble in listed(names))
        # a source that is named twice is one row, so that a row belongs to one source
        once: dict[Item, Item] = {}
        here = str(Path.cwd())
        for item in found:
            once.setdefault(plan._key(item, here), item)
        plan.items = list(once.values())
        return plan

    @property
    def relative(self) -> bool:
        """Whether a source has a name that begins where the job is started."""
        return any(is_relative(item.name(self.stores)) for item in self.items)

    def parts(self, items: list[Item], workers: int, first: int) -> list[pa.Table]:
        """The items as tables of ITEMS, one a part, numbered from `first`."""
        size = max(1, min(PART, -(-len(items) // (workers * SHARE))))
        starts = range(0, len(items), size)
        return [_table(number, items[start : start + size]) for number, start in enumerate(starts, first)]

    def _find(self, name: str, trouble: str | None, skip: Path | None) -> Iterator[Item]:
        if trouble is not None:
            yield Item(name, problem=trouble)
        elif is_address(name):
            store, path = Store.of(name)
            wanted = PARQUET if _is_table(path) else MEDIA
            yield from self._files(store, path, wanted)
        elif name == STDIN or is_live(name):
            raise ManyError(f"{shown(name)}: a camera, stream or pipe cannot be read by many workers")
        elif _is_table(name):
            yield from self._tables(name, skip)
        else:
            for source in open_sources([name], skip):
                yield Item(source.name, problem=source.problem)

    def _files(self, store: Store, path: str, wanted: re.Pattern[str]) -> Iterator[Item]:
        number = self._number(store)
        # a list may name a million files: whether one is there its worker will see
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
        # a pattern such as [z-a] is a re.error
        except (OSError, re.error, pa.ArrowException) as error:
            problem = f"cannot be read: {one_line(error)}"
        if problem is not None:
            yield Item(path, number, problem=problem)
        elif wanted is PARQUET:
            yield from self._rows(store, path, files)
        else:
            yield from (Item(file, number) for file in files)

    def _tables(self, name: str, skip: Path | None) -> Iterator[Item]:
        """The rows of tables on disk; Arrow's own search would go round in circles of links."""
        store, _ = Store.of(name)
        number = self._number(store)
        found = list(expand(name)) if is_pattern(name) else []
        for path, problem in found or [Match(Path(name))]:
            problem = problem or path_problem(path)
            if is_inside(path, skip):
                # the results are a folder of tables, too
                continue
            if problem is not None:
                yield Item(str(path), number, problem=problem)
            elif path.is_dir():
                files = []
                for folder in folders(path, skip):
                    if folder.problem is not None:
                        yield Item(str(folder.path), number, problem=folder.problem)
                    files += [str(folder.path / each) for each in folder.files if PARQUET.fullmatch(each)]
                yield from self._rows(store, str(path), files)
            elif path.is_file():
                yield from self._rows(store, str(path), [str(path)])
            else:
                yield Item(str(path), number, problem="is neither a file nor a folder")

    def _rows(self, store: Store, named: str, files: list[str]) -> Iterator[Item]:
        """The rows of Parquet files that were found under a name."""
        number, empty = self._number(store), True
        with ThreadPoolExecutor(_READS) as pool:
            for file, (rows, problem) in zip(files, pool.map(lambda each: _count(store, each), files), strict=True):
                empty = empty and problem is None and rows == 0
                if problem is not None:
                    yield Item(file, number, problem=problem)
                yield from (Item(file, number, row) for row in range(rows))
        if empty:
            yield Item(named, number, problem="has no rows" if files else _NOTHING)

    def _key(self, item: Item, here: str) -> Item:
        """The same item for all names of a file, but those that lead there by links."""
        if item.store is not None and self.stores[item.store].scheme:
            return item
        path = one_name(item.path, here)
        return item if path == item.path else Item(path, item.store, item.row, item.problem)

    def _own(self, store: Store) -> tuple[str, ...]:
        """How the paths of the job's own results begin in a store; nothing where they lie elsewhere."""
        if self.results is None or self.results[0].filesystem != store.filesystem:
            return ()
        return (f"{self.results[1]}/",)

    def _number(self, store: Store) -> int:
        # stores are few: one for each address that is named
        if store not in self.stores:
            self.stores.append(store)
        return self.stores.index(store)


def one_name(name: str, here: str) -> str:
    """The name of a source that all names share which lead there without links: ./a.jpg and a.jpg are a.jpg.

    `here` is the current directory. Addresses stay as they are.
    """
    # a million names are plain already, and take no memory twice
    odd = "/." in name or "//" in name or name.startswith(".") or name.endswith("/")
    return (whole(name, here) if odd else name).removeprefix(here.rstrip("/") + "/")


def whole(name: str, start: str) -> str:
    """The name of a source from the root on, where relative ones begin at `start`; an address as it is."""
    if is_address(name):
        return name
    path = os.path.join(start, name)  # noqa: PTH118
    plain = os.path.normpath(path)
    # the folder above one that is a link lies elsewhere
    return path if "/../" in name.lstrip("./") and real_path(path) != real_path(plain) else plain


def is_relative(name: str) -> bool:
    """Whether the name of a source begins where the job is started."""
    return not is_address(name) and not os.path.isabs(name)  # noqa: PTH117


def items(table: pa.Table) -> list[Item]:
    """The items of a part."""
    columns = (table.column(name).to_pylist() for name in ("path", "store", "row", "problem"))
    return [Item(os.fsdecode(path), *others) for path, *others in zip(*columns, strict=True)]


def image_column(schema: pa.Schema) -> tuple[str, bool]:
    """The column that holds encoded pictures, and whether they are its `bytes` (a struct, as Hugging Face writes it).

    It is the only column of binary values, or one called `image` or `bytes`. Raises ValueError, the reason alone.
    """
    found = {each.name: pa.types.is_struct(each.type) for each in schema if _holds_bytes(each.type)}
    named = [name for name in found if name.lower() in _NAMED] if len(found) > 1 else list(found)
    if len(named) != 1:
        has = f"has several columns of bytes ({', '.join(found)})" if found else "has no column of bytes"
        raise ValueError(f"{has}: call the one with the encoded pictures {_NAMED[0]}")
    return named[0], found[named[0]]


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _count(store: Store, path: str) -> tuple[int, str | None]:
    """How many rows a Parquet file has, or why it has none that can be used."""
    try:
        with pq.ParquetFile(path, filesystem=store.filesystem) as file:
            image_column(file.schema_arrow)
            return file.metadata.num_rows, None
    except UnicodeError:
        return 0, f"cannot be read: {NOT_UTF8}"
    except ValueError as error:
        # Arrow's own error for a damaged file is a ValueError, too
        return 0, one_line(error)
    # the rest is of a kind that Arrow does not read
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
    return pa.table(columns, ITEMS)
