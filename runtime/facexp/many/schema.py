"""The record of `facexp.sinks.frame_record` as an Arrow schema: one row a record, names and values as in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from facexp.address import as_utf8
from facexp.geometry import KEYPOINTS
from facexp.labels import SEVEN

_ABOUT, _FRAMELESS = b"facexp", b"facexp.frameless"


def record_schema(labels: Sequence[str] = SEVEN) -> pa.Schema:
    """The columns of a record whose probabilities have these labels; what a record lacks is null.

    Numbers are rounded as in JSON and stand in 64 bits, so that they are equal to those. `age_ms` and `dropped` are
    not here: only live sources have them.
    """
    number = pa.float64()
    reading = [
        ("keypoints", pa.struct([(name, pa.list_(number, 2)) for name in KEYPOINTS])),
        (
            "emotion",
            pa.struct([("label", pa.string()), ("probabilities", pa.struct([(label, number) for label in labels]))]),
        ),
    ]
    face = pa.struct(
        [
            ("id", pa.int64()),
            ("box", pa.list_(number, 4)),
            ("score", number),
            *reading,
            ("smoothed", pa.struct(reading)),
        ]
    )
    return pa.schema(
        [
            pa.field("schema", pa.int64(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("frame", pa.int64(), nullable=False),
            ("time_ms", number),
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("device", pa.string()),
            ("faces", pa.list_(face)),
            ("ms", pa.struct([("detect", number), ("keypoints", number), ("emotion", number)])),
            ("error", pa.string()),
        ]
    )


def file_schema(labels: Sequence[str], about: str) -> pa.Schema:
    """The columns of a file of records; `about` is a JSON text that travels in its metadata."""
    return record_schema(labels).with_metadata({_ABOUT: about.encode()})


def to_table(records: Sequence[dict[str, Any]], labels: Sequence[str], about: str) -> pa.Table:
    """The records as rows of a file, as `file_schema` has it."""
    valid = [
        {**record, **{key: as_utf8(record[key]) for key in ("source", "error") if key in record}} for record in records
    ]
    return pa.Table.from_pylist(valid, file_schema(labels, about))


def frameless(metadata: Mapping[bytes, bytes] | None) -> list[str]:
    """The sources of a file that have no row, because the options chose none of their frames."""
    found: list[str] = json.loads((metadata or {}).get(_FRAMELESS, b"[]"))
    return found


def with_frameless(sources: Sequence[str]) -> dict[bytes, bytes]:
    """The metadata in which `frameless` finds them."""
    return {_FRAMELESS: json.dumps([as_utf8(source) for source in sources]).encode()}


def about(metadata: Mapping[bytes, bytes] | None) -> str | None:
    """What `file_schema` was told, by a file's metadata; None in a file that it did not make."""
    found = (metadata or {}).get(_ABOUT)
    return None if found is None else found.decode()
