"""Errors that an export raises."""

from __future__ import annotations

from facexp.errors import FacexpError


class ExportError(FacexpError):
    """The run, its data, the recipe or the bundle directory cannot be used, or a step of the export failed.

    The message says what is wrong, where, and what to do.
    """


class ParityError(ExportError):
    """An exported file does not give the trained model's answers, or comparing the two would prove nothing."""


def first_line(error: Exception) -> str:
    """Return the first line of a library's error message, or the name of the error's type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
