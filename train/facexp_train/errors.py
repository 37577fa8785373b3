"""What can go wrong in training, told in one line."""

from __future__ import annotations


class DataError(Exception):
    """A dataset cannot be used: the line says which file, row and column, and what was expected there."""


class TrainingError(Exception):
    """Training cannot go on: the line says where, what is kept, and how to go on."""
