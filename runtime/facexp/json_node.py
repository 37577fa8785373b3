"""A JSON file read with care: what is missing or of another kind is named by file and key."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from facexp.address import as_utf8
from facexp.errors import BundleError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Node:
    """A JSON object with its place in its file, so that every complaint names file and key."""

    file: Path
    key: str
    value: Any

    def __post_init__(self) -> None:
        if not isinstance(self.value, dict):
            raise self.wrong("", f"must be an object, got {as_json(self.value)}")

    @classmethod
    def read(cls, file: Path) -> Node:
        """The object that a file of a bundle holds; BundleError where it cannot be read or holds something else."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            why = error.strerror or str(error)
            raise BundleError(f"{file}: cannot be read ({why}); give the directory of a facexp bundle") from error
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{file}: not valid JSON ({error}); install or export the bundle again") from error
        return cls(file, "", content)

    def get(self, key: str, kind: type[_T]) -> _T:
        """The value of a key. BundleError where it is not there, or not a `kind` that can be reckoned with or shown."""
        if key not in self.value:
            raise self.wrong(key, "is missing")
        found = self.value[key]
        # JSON writes 1.0 as 1, and Python takes True for a number
        if kind is float and isinstance(found, int) and not isinstance(found, bool):
            found = _as_float(found)
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
            raise self.wrong(key, f"must be {kind.__name__}, got {as_json(found)}")
        if isinstance(found, float) and not math.isfinite(found):
            raise self.wrong(key, f"must be a finite number, got {as_json(found)}")
        # JSON can write half of a surrogate pair
        if isinstance(found, str) and as_utf8(found) != found:
            raise self.wrong(key, f"must be text, got {as_json(found)}")
        return found

    def child(self, key: str) -> Node:
        """The object under a key."""
        return Node(self.file, self.path(key), self.get(key, dict))

    def children(self, key: str) -> tuple[Node, ...]:
        """The objects of the list under a key."""
        return tuple(
            Node(self.file, self.path(f"{key}[{index}]"), value) for index, value in enumerate(self.get(key, list))
        )

    def objects(self, key: str) -> tuple[dict[str, Any], ...]:
        """The same objects as they are, of which there may be a thousand; their own keys are not complained of."""
        found = self.get(key, list)
        for index, value in enumerate(found):
            if not isinstance(value, dict):
                raise self.wrong(f"{key}[{index}]", f"must be an object, got {as_json(value)}")
        return tuple(found)

    def path(self, key: str) -> str:
        """Where a key stands in the file."""
        return ".".join(part for part in (self.key, key) if part) or "the file"

    def wrong(self, key: str, what: str) -> BundleError:
        """What to raise about a key."""
        return BundleError(f"{self.file}: {as_utf8(self.path(key))} {what}")


def as_json(value: object) -> str:
    """A value in short, as JSON that any terminal can show."""
    text = as_utf8(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else text[:57] + "..."


def _as_float(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf
