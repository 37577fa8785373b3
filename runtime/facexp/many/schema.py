"""Arrow schema of the records of `facexp.sinks.records`: a row for each record, names and values as in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from facexp.address import as_utf8
from facexp.geometry import KEYPOINTS
from facexp.labels import SEVEN

_ABOUT, _FRAMELESS = b"facexp", b"facexp.frameless"


def record_schema(labels: Sequence[str] = SEVEN) -> pa.Schema:
    """Return the columns of records with these emotion labels; what a record lacks is null.

    Numbers are rounded as in JSON and stored in 64 bits, so that they are equal to the JSON's. There are no columns
    `age_ms` and `dropped`, which only live sources have.
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
    """Return the schema of a file of records; `about` is a JSON text that is stored in its metadata."""
    return record_schema(labels).with_metadata({_ABOUT: about.encode()})


def frameless(metadata: Mapping[bytes, bytes] | None) -> list[str]:
    """Return the sources of a file that have no row because the options chose none of their frames."""
    found: list[str] = json.loads((metadata or {}).get(_FRAMELESS, b"[]"))
    return found


def with_frameless(sources: Sequence[str]) -> dict[bytes, bytes]:
    """Return the metadata that stores sources for `frameless`."""
    return {_FRAMELESS: json.dumps([as_utf8(source) for source in sources]).encode()}


def about(metadata: Mapping[bytes, bytes] | None) -> str | None:
    """Return the `about` text of `file_schema` from a file's metadata; None if there is none."""
    found = (metadata or {}).get(_ABOUT)
    return None if found is None else found.decode()
