"""Temporary files and directories, made where TMPDIR says."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facexp.errors import one_line
from facexp_export.errors import ExportError


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a temporary directory, which is removed at the end; ExportError if it cannot be made."""
    with temporary_files():
        directory = tempfile.TemporaryDirectory(prefix="facexp-export-", ignore_cleanup_errors=True)
    with directory as name:
        yield Path(name)


@contextmanager
def temporary_files() -> Iterator[None]:
    """Turn an OSError of the block, which must write temporary files only, into an ExportError that says what to do."""
    try:
        yield
    except OSError as error:
        place = tempfile.tempdir or os.environ.get("TMPDIR", "TMPDIR")
        why = error.strerror or one_line(error)
        raise ExportError(
            f"{place}: a temporary file cannot be written ({why}); set TMPDIR to a directory with free space"
        ) from error
