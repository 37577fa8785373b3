"""The files of parts: their names, how one appears whole, and how rows go from one that is there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from facexp.many.schema import frameless, with_frameless
from facexp.many.stores import Store

_PART_NAME = r"part-\d{6,}-[0-9a-f]{8}\.parquet"


def part_name(number: int, run: str) -> str:
    """The file of a part; files in the order of their names are rows in the order of the sources."""
    return f"part-{number:06d}-{run}.parquet"


def is_part(name: str) -> bool:
    """Whether `part_name` gives such names: of files with other names in a folder of results none is ever removed."""
    return re.fullmatch(_PART_NAME, name) is not None


def is_begun(name: str) -> bool:
    """Whether a worker writes files of such names on the way to a part: they are removed, too."""
    return re.fullmatch(rf"\.{_PART_NAME}-(\d+|tries)", name) is not None


@contextlib.contextmanager
def whole_file(store: Store, folder: str, name: str, *, again: bool = False) -> Iterator[str]:
    """Where on this machine to write a file that has its name in the folder when the block has ended well.

    A process that dies meanwhile leaves nothing that looks like results, and a file that is there is replaced. Who is
    interrupted leaves in an object store what came that far, `again`: not in the place of a file that is whole.
    """
    beside = f"{folder}/.{name}-{os.getpid()}"
    if store.local:
        yield beside
        # a power cut may keep the new name and lose the content
        with Path(beside).open("rb+") as rows:
            os.fsync(rows.fileno())
        store.filesystem.move(beside, f"{folder}/{name}")
        return
    with tempfile.TemporaryDirectory(prefix="facexp-") as here:
        yield f"{here}/{name}"
        to = beside if again else f"{folder}/{name}"
        with Path(here, name).open("rb") as rows, store.filesystem.open_output_stream(to) as out:
            shutil.copyfileobj(rows, out, 1 << 20)
    if again:
        store.filesystem.move(beside, f"{folder}/{name}")


def take_rows(store: Store, folder: str, name: str, sources: Iterable[str]) -> None:
    """Take the rows of these sources from a part; a part that tells of no others is removed."""
    path, gone = f"{folder}/{name}", pa.array([*sources], pa.string())
    if not len(gone):
        return
    # Windows removes and replaces no file that is open
    with pq.ParquetFile(path, filesystem=store.filesystem) as old:
        without = frameless(old.metadata.metadata)
        empty = not without and pc.all(pc.is_in(old.read(["source"]).column(0), gone)).as_py()
    if empty:
        store.filesystem.delete_file(path)
        return
    with (
        whole_file(store, folder, name, again=True) as beside,
        pq.ParquetFile(path, filesystem=store.filesystem) as old,
        pq.ParquetWriter(beside, old.schema_arrow, filesystem=fs.LocalFileSystem(), compression="zstd") as new,
    ):
        for number in range(old.num_row_groups):
            rows = old.read_row_group(number)
            new.write_table(rows.filter(pc.invert(pc.is_in(rows.column("source"), gone))))
        new.add_key_value_metadata(with_frameless(without))
