"""The files of parts: their names, how they are written atomically, and how rows are removed from one."""

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
    """Return the file name of a part; in the order of their names, the files of a run hold the sources in order."""
    return f"part-{number:06d}-{run}.parquet"


def is_part(name: str) -> bool:
    """Return whether a name has the form of `part_name`; files with other names are never removed from the results."""
    return re.fullmatch(_PART_NAME, name) is not None


def is_incomplete(name: str) -> bool:
    """Return whether a name is that of a file that a worker writes before its part is complete; these are removed."""
    return re.fullmatch(rf"\.{_PART_NAME}-(\d+|tries)", name) is not None


@contextlib.contextmanager
def atomic_file(store: Store, folder: str, name: str) -> Iterator[str]:
    """Yield a local path to write to; the file gets its name in the folder only after the block ends without an error.

    An existing file of that name is replaced, and a process that is interrupted leaves nothing that looks like results:
    what it has written has a temporary name (`is_incomplete`).
    """
    temporary = f"{folder}/.{name}-{os.getpid()}"
    if store.local:
        yield temporary
        # without fsync, a power cut could keep the new name and lose the content
        with Path(temporary).open("rb+") as rows:
            os.fsync(rows.fileno())
    else:
        with tempfile.TemporaryDirectory(prefix="facexp-") as local_folder:
            yield f"{local_folder}/{name}"
            # an object store keeps what was uploaded when an error ended the upload
            with Path(local_folder, name).open("rb") as rows, store.filesystem.open_output_stream(temporary) as out:
                shutil.copyfileobj(rows, out, 1 << 20)
    # an object store copies the file, which appears when it is complete, and deletes the temporary one
    try:
        store.filesystem.move(temporary, f"{folder}/{name}")
    except NotImplementedError:
        # Arrow moves no file in an Azure account without a hierarchical namespace
        store.filesystem.copy_file(temporary, f"{folder}/{name}")
        store.filesystem.delete_file(temporary)


def remove_rows(store: Store, folder: str, name: str, sources: Iterable[str]) -> None:
    """Remove the rows of these sources from a part; a part without other sources is deleted."""
    path, removed = f"{folder}/{name}", pa.array([*sources], pa.string())
    if not len(removed):
        return
    # the file is closed first, because Windows can neither delete nor replace an open file
    with pq.ParquetFile(path, filesystem=store.filesystem) as old:
        without = frameless(old.metadata.metadata)
        empty = not without and pc.all(pc.is_in(old.read(["source"]).column(0), removed)).as_py()
    if empty:
        store.filesystem.delete_file(path)
        return
    with (
        atomic_file(store, folder, name) as new_path,
        pq.ParquetFile(path, filesystem=store.filesystem) as old,
        pq.ParquetWriter(new_path, old.schema_arrow, filesystem=fs.LocalFileSystem(), compression="zstd") as new,
    ):
        for number in range(old.num_row_groups):
            rows = old.read_row_group(number)
            new.write_table(rows.filter(pc.invert(pc.is_in(rows.column("source"), removed))))
        new.add_key_value_metadata(with_frameless(without))
