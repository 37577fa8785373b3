"""What can be wrong with a dataset, told in one line."""

from __future__ import annotations


class DataError(Exception):
    """A dataset cannot be used: the line says which file, row and column, and what was expected there."""
