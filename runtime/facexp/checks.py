"""Argument checks that several of facexp's public functions share."""

from __future__ import annotations

from numbers import Integral


def expect_count(name: str, number: object, *, optional: bool = False) -> None:
    """Raise ValueError unless argument `name` is a whole number of at least 1, or None if it is `optional`."""
    if optional and number is None:
        return
    if not (isinstance(number, Integral) and int(number) >= 1):
        or_none = "None or " if optional else ""
        raise ValueError(f"{name} must be {or_none}a whole number of at least 1, got {number}")
