"""What can go wrong while a run is exported."""

from __future__ import annotations

from facexp.errors import FacexpError


class ExportError(FacexpError):
    """The run, its data or the bundle directory cannot be used; the message says which, where and what to do."""


class ParityError(ExportError):
    """An exported file does not do what the trained model does, or the check itself proves nothing."""


def first_line(error: Exception) -> str:
    """What a library's error says, without its pages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
