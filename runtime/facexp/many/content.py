"""The content of a part's sources, in their order: files on disk by their names, what lies in a store as bytes."""

from __future__ import annotations

import bisect
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePath

import pyarrow as pa
import pyarrow.parquet as pq

from facexp.errors import one_line
from facexp.many.plan import Item, image_column
from facexp.many.stores import Store
from facexp.shots import Source

# object stores answer late, but many questions at once; files that are known to be large are not
_READS = 16
_AHEAD_BYTES = 64 << 20
# rows of a table that are read at once
_ROWS = 64
_BUFFER = 8 << 20
_NO_PICTURE = "the row holds no picture"


def open_items(todo: Iterable[Item], stores: list[Store], *, ahead: bool = True) -> Iterator[Source]:
    """The items as sources that can be read, each in its turn; what lies in a store is fetched `ahead`."""
    for (number, table), group in itertools.groupby(todo, key=_together):
        if number is None:
            yield from (Source(item.path, PurePath(item.path), item.problem) for item in group)
        elif table is None:
            yield from _fetched(list(group), stores, _READS if ahead else 1)
        else:
            yield from _rows(list(group), stores)


def _together(item: Item) -> tuple[int | None, str | None]:
    return item.store, None if item.row is None else item.path


def _source(item: Item, stores: list[Store], data: bytes | None, problem: str | None = None) -> Source:
    return Source(item.name(stores), PurePath(item.path), problem, data=data)


def _fetched(group: list[Item], stores: list[Store], most: int) -> Iterator[Source]:
    def fetch(item: Item) -> Source:
        if item.problem is not None:
            return _source(item, stores, None, item.problem)
        try:
            return _source(item, stores, stores[item.store or 0].read(item.path))
        except FileNotFoundError:
            return _source(item, stores, None, "no such file or folder")
        # each store has errors of its own
        except Exception as error:
            return _source(item, stores, None, f"cannot be read: {one_line(error)}")

    with ThreadPoolExecutor(most) as pool:
        ahead: deque[Future[Source]] = deque()
        coming, reads = iter(group), min(2, most)
        while True:
            ahead.extend(pool.submit(fetch, item) for item in itertools.islice(coming, max(0, reads - len(ahead))))
            if not ahead:
                return
            source = ahead.popleft().result()
            # the next are as large as this one, as far as one can tell
            reads = min(most, max(1, _AHEAD_BYTES // max(len(source.data or b""), 1)))
            yield source


def _rows(group: list[Item], stores: list[Store]) -> Iterator[Source]:
    """Rows of one file, in their order. Only the column with the pictures is read, a few rows at a time."""
    if all(item.problem is not None for item in group):
        # a worker that ended where it read them, say
        yield from (_source(item, stores, None, item.problem) for item in group)
        return
    left = {item.row: item for item in group}
    rows = sorted(row for row in left if row is not None)

    def wanted(start: int, end: int) -> bool:
        return bisect.bisect_left(rows, start) < bisect.bisect_left(rows, end)

    try:
        filesystem = stores[group[0].store or 0].filesystem
        with pq.ParquetFile(group[0].path, filesystem=filesystem, buffer_size=_BUFFER, pre_buffer=False) as file:
            name, inside = image_column(file.schema_arrow)
            columns = [f"{name}.bytes" if inside else name]
            end = 0
            for number in range(file.num_row_groups):
                start, end = end, end + file.metadata.row_group(number).num_rows
                if not wanted(start, end):
                    continue
                for batch in file.iter_batches(_ROWS, row_groups=[number], columns=columns):
                    values = batch.column(0).field("bytes") if inside else batch.column(0)
                    for row, value in enumerate(values, start):
                        if (item := left.pop(row, None)) is not None:
                            data = value.as_py()
                            yield _source(item, stores, data, item.problem or (_NO_PICTURE if data is None else None))
                    start += len(values)
                    if not wanted(start, end):
                        break
        problem = "the file has no such row any more"
    # Arrow's error for damaged data is a ValueError
    except (OSError, ValueError, pa.ArrowException) as error:
        problem = f"cannot be read: {one_line(error)}"
    for item in left.values():
        yield _source(item, stores, None, problem)
