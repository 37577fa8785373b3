"""The staging directory of an export, which replaces the bundle directory as a whole when the export has succeeded."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facexp.bundle import MANIFEST
from facexp_export.errors import ExportError


def prepare_destination(out: Path) -> bytes | None:
    """Check that a bundle can be written to `out`, and return the manifest that is there now, for `staged`.

    Directories left by killed exports are removed; if a killed export had moved the bundle itself away, it is moved
    back. The result is the content of manifest.json, or None if there is none. Raises ExportError for a mount point
    and for a parent directory that cannot be written.
    """
    if os.path.ismount(out):
        raise ExportError(
            f"{out}: is a mount point, which cannot be replaced as a whole; give a folder inside it: "
            f"--out {out / 'bundle'}"
        )
    ancestor = next(parent for parent in out.parents if parent.exists())
    try:
        # permission bits do not always show whether a directory can be written, so try it
        tempfile.TemporaryDirectory(prefix=f".{out.name}.try-", dir=ancestor).cleanup()
        _clear(out)
    except OSError as error:
        raise ExportError(
            f"{ancestor}: cannot be written ({error.strerror or error}), and a bundle is made in a folder next to it; "
            "give another --out"
        ) from error
    return _manifest(out)


@contextmanager
def staged(out: Path, before: bytes | None) -> Iterator[Path]:
    """Yield a copy of `out` to work in, which replaces `out` at the end and is removed on an error.

    `before` is the result of `prepare_destination`. Raises ExportError if another export has changed the manifest in
    `out` since then, or if the directory cannot be copied or replaced.
    """
    stage = out.with_name(f".{out.name}.new-{os.getpid()}")
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    try:
        if out.is_dir():
            shutil.copytree(out, stage)
        else:
            stage.mkdir(parents=True)
        yield stage
        if _manifest(out) != before:
            raise ExportError(f"{out}: was changed by another export meanwhile; export again")
        try:
            if out.exists():
                out.rename(old)
            stage.rename(out)
        except BaseException:
            # put the old bundle back, whatever interrupted the two renames, including Ctrl-C
            if old.exists() and not out.exists():
                old.rename(out)
            raise
    except OSError as error:
        # copytree reports a list of (source, destination, reason) tuples, one per file
        why = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        raise ExportError(f"{out}: the bundle cannot be written ({why})") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)


def _manifest(out: Path) -> bytes | None:
    try:
        return (out / MANIFEST).read_bytes()
    except OSError:
        # a manifest that exists but cannot be read is reported by the code that parses it
        return None


def _clear(out: Path) -> None:
    """Remove the directories left by killed exports; if `out` is missing, rename the old bundle back to it."""
    left = {kind: sorted(out.parent.glob(f".{glob.escape(out.name)}.{kind}-*")) for kind in ("old", "new")}
    for kind, paths in left.items():
        for path in paths:
            pid = path.name.rpartition("-")[2]
            if not pid.isdecimal() or _is_running(int(pid)):
                continue
            if kind == "old" and not out.exists():
                path.rename(out)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    """Return whether another process with this id may be running.

    False for this process itself: a directory with its id was left by an earlier process that had the same id.
    """
    if pid == os.getpid():
        return False
    if os.name != "posix":
        # os.kill(pid, 0) would end the process on Windows
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        # the process exists, but belongs to another user
        return True
    return True
