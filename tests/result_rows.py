"""Read the rows that `--engine ray` writes as the records that a local run prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow import fs


def read_rows(out: Path | str, filesystem: Any = None) -> list[dict[str, Any]]:
    """Return the rows of a folder of results in the order of files and rows, without their timings."""
    files = filesystem or fs.LocalFileSystem()
    paths = sorted(info.path for info in files.get_file_info(fs.FileSelector(str(out))))
    tables = [pq.read_table(path, filesystem=files) for path in paths if path.endswith(".parquet")]
    return [without_times(without_nulls(row)) for table in tables for row in table.to_pylist()]


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "ms"}


def without_nulls(value: Any) -> Any:
    """Drop nulls, which stand for fields that a record lacks. Only a photo's `id` stays null."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None or key == "id"}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value
