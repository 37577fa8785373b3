"""Open the sources of a part, in order: photos and clips on disk by name, everything in a store as bytes."""

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
from facexp.sources.shots import Source

# object stores have a high latency but serve many requests at once, so that many files are fetched ahead, but only as
# many as fit into this memory
_PARALLEL_READS = 16
_PREFETCH_BYTES = 64 << 20
# number of a table's rows in one batch
_BATCH_ROWS = 64
_BUFFER_BYTES = 8 << 20
_NO_PICTURE = "the row holds no picture"


def open_items(todo: Iterable[Item], stores: list[Store], *, ahead: bool = True) -> Iterator[Source]:
    """Yield the items as sources that can be read, in order; with `ahead`, files in a store are prefetched."""
    for (number, table), group in itertools.groupby(todo, key=_group_key):
        if number is None:
            yield from (Source(item.path, PurePath(item.path), item.problem) for item in group)
        elif table is None:
            yield from _fetched(list(group), stores, number, _PARALLEL_READS if ahead else 1)
        else:
            yield from _rows(list(group), stores, number)


def _group_key(item: Item) -> tuple[int | None, str | None]:
    """Return store and table of an item: consecutive items with equal keys are read together."""
    return item.store, None if item.row is None else item.path


def _source(item: Item, stores: list[Store], data: bytes | None, problem: str | None = None) -> Source:
    return Source(item.name(stores), PurePath(item.path), problem, data=data)


def _fetched(group: list[Item], stores: list[Store], number: int, most: int) -> Iterator[Source]:
    """Yield files of store `number` with their content, in order, with at most `most` requests at once."""

    def fetch(item: Item) -> Source:
        if item.problem is not None:
            return _source(item, stores, None, item.problem)
        try:
            return _source(item, stores, stores[number].read(item.path))
        except FileNotFoundError:
            return _source(item, stores, None, "no such file or folder")
        # each store raises its own kinds of errors
        except Exception as error:
            return _source(item, stores, None, f"cannot be read: {one_line(error)}")

    with ThreadPoolExecutor(most) as pool:
        ahead: deque[Future[Source]] = deque()
        pending, reads = iter(group), min(2, most)
        while True:
            ahead.extend(pool.submit(fetch, item) for item in itertools.islice(pending, max(0, reads - len(ahead))))
            if not ahead:
                return
            source = ahead.popleft().result()
            # the next files are assumed to be as large as this one
            reads = min(most, max(1, _PREFETCH_BYTES // max(len(source.data or b""), 1)))
            yield source


def _rows(group: list[Item], stores: list[Store], number: int) -> Iterator[Source]:
    """Yield rows of one Parquet file in store `number`, in order.

    Only the column with the pictures is read, a few rows at a time.
    """
    if all(item.problem is not None for item in group):
        # do not open the file at all: workers may have crashed when they read it
        yield from (_source(item, stores, None, item.problem) for item in group)
        return
    unread = {item.row: item for item in group}
    rows = sorted(row for row in unread if row is not None)

    def wanted(start: int, end: int) -> bool:
        return bisect.bisect_left(rows, start) < bisect.bisect_left(rows, end)

    try:
        filesystem = stores[number].filesystem
        with pq.ParquetFile(group[0].path, filesystem=filesystem, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            name, in_struct = image_column(file.schema_arrow)
            columns = [f"{name}.bytes" if in_struct else name]
            end = 0
            for row_group in range(file.num_row_groups):
                start, end = end, end + file.metadata.row_group(row_group).num_rows
                if not wanted(start, end):
                    continue
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[row_group], columns=columns):
                    values = batch.column(0).field("bytes") if in_struct else batch.column(0)
                    for row, value in enumerate(values, start):
                        if (item := unread.pop(row, None)) is not None:
                            data = value.as_py()
                            yield _source(item, stores, data, item.problem or (_NO_PICTURE if data is None else None))
                    start += len(values)
                    if not wanted(start, end):
                        break
        problem = "the file has no such row any more"
    # Arrow raises ValueError for damaged data
    except (OSError, ValueError, pa.ArrowException) as error:
        problem = f"cannot be read: {one_line(error)}"
    for item in unread.values():
        yield _source(item, stores, None, problem)
