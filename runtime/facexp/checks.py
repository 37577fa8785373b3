"""What several of facexp's doors refuse alike."""

from __future__ import annotations

from numbers import Integral


def expect_count(name: str, number: object, *, optional: bool = False) -> None:
    """ValueError unless the argument of that name is a whole number of at least 1, or None where it is `optional`."""
    if optional and number is None:
        return
    if not (isinstance(number, Integral) and int(number) >= 1):
        none = "None or " if optional else ""
        raise ValueError(f"{name} must be {none}a whole number of at least 1, got {number}")
