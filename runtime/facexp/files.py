"""Files that are whole or not there at all."""

from __future__ import annotations

import contextlib
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside, then rename: a reader never sees half a file. OSError, with the file's name, where it fails."""
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        # half a file fills a full disk for nothing
        discard(beside)
        # a write, unlike an open, does not say which file it was
        raise OSError(error.errno, error.strerror, str(path)) from error


def discard(path: Path) -> None:
    """Remove a file that may be gone, or lie on a disk that nothing can be removed from: no error of its own."""
    with contextlib.suppress(OSError):
        path.unlink()
