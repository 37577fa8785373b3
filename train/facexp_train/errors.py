"""The errors of training. Each message is one line."""

from __future__ import annotations

from facexp.errors import FacexpError


class DataError(FacexpError):
    """A dataset, configuration or run cannot be used. The message says where (file, row, key) and what was expected."""


class TrainingError(FacexpError):
    """Training cannot continue. The message says where it stopped, what is kept, and how to continue."""
