"""Writing and removing files so that no reader ever sees a partial one."""

from __future__ import annotations

import contextlib
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file in the same folder, then rename it atomically to `path`.

    Raises OSError with the file's name where that fails; the temporary file is then removed.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        # a partial file would only take space on a full disk
        discard(temporary)
        # unlike the error of an open, that of a write does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from error


def discard(path: Path) -> None:
    """Remove a file, ignoring any OSError: the file may be missing already, or the disk may be read-only."""
    with contextlib.suppress(OSError):
        path.unlink()
