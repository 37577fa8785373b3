"""Checked reading of JSON files: errors about missing or wrong values name the file and the key."""

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
    """A JSON object with its file and its position there, so that every error message names both."""

    file: Path
    key: str
    value: Any

    def __post_init__(self) -> None:
        if not isinstance(self.value, dict):
            raise self.error("", f"must be an object, got {as_json(self.value)}")

    @classmethod
    def read(cls, file: Path) -> Node:
        """Read the object in a bundle's file. Raises BundleError where the file cannot be read or holds no object."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            why = error.strerror or str(error)
            raise BundleError(f"{file}: cannot be read ({why}); give the directory of a facexp bundle") from error
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{file}: not valid JSON ({error}); install or export the bundle again") from error
        return cls(file, "", content)

    def get(self, key: str, kind: type[_T]) -> _T:
        """The value of a key.

        Raises BundleError where the key is missing, or where the value is not of type `kind`, is not finite, or is text
        that UTF-8 cannot encode. An integer is converted where `kind` is float.
        """
        if key not in self.value:
            raise self.error(key, "is missing")
        found = self.value[key]
        # JSON may write 1.0 as 1; in Python, True is an int
        if kind is float and isinstance(found, int) and not isinstance(found, bool):
            found = _as_float(found)
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
            raise self.error(key, f"must be {kind.__name__}, got {as_json(found)}")
        if isinstance(found, float) and not math.isfinite(found):
            raise self.error(key, f"must be a finite number, got {as_json(found)}")
        # JSON can contain half of a surrogate pair
        if isinstance(found, str) and as_utf8(found) != found:
            raise self.error(key, f"must be text, got {as_json(found)}")
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
        """The objects of the list under a key as plain dictionaries, for long lists; their keys are not checked."""
        found = self.get(key, list)
        for index, value in enumerate(found):
            if not isinstance(value, dict):
                raise self.error(f"{key}[{index}]", f"must be an object, got {as_json(value)}")
        return tuple(found)

    def path(self, key: str) -> str:
        """The full path of a key in the file, for messages, such as "models.emotion"."""
        return ".".join(part for part in (self.key, key) if part) or "the file"

    def error(self, key: str, what: str) -> BundleError:
        """The error to raise about a key; `what` says what is wrong with it."""
        return BundleError(f"{self.file}: {as_utf8(self.path(key))} {what}")


def as_json(value: object) -> str:
    """A value as JSON, cut off after 60 characters, that any terminal can show."""
    text = as_utf8(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else text[:57] + "..."


def _as_float(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf
