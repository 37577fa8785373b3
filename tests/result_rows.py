"""The rows that `--engine ray` writes, as the records that the plain run prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow import fs


def read_rows(out: Path | str, filesystem: Any = None) -> list[dict[str, Any]]:
    """Those of a folder of results in the order of files and rows, without their timings."""
    where = filesystem or fs.LocalFileSystem()
    paths = sorted(info.path for info in where.get_file_info(fs.FileSelector(str(out))))
    tables = [pq.read_table(path, filesystem=where) for path in paths if path.endswith(".parquet")]
    return [without_times(bare(row)) for table in tables for row in table.to_pylist()]


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "ms"}


def bare(value: Any) -> Any:
    """Without nulls, which stand for what a record lacks; but for a photo's id."""
    if isinstance(value, dict):
        return {key: bare(each) for key, each in value.items() if each is not None or key == "id"}
    return [bare(each) for each in value] if isinstance(value, list) else value
