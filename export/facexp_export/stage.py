"""The directory that an export works in, beside the bundle whose place it takes at the end."""

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


def prepare(out: Path) -> bytes | None:
    """What the bundle in `out` is before an export, as `staged` takes it.

    What a killed export left beside it is cleared away, and where `out` itself is missing for that, it is put back.
    Raises ExportError for a place that `staged` could not put a bundle in.
    """
    if os.path.ismount(out):
        raise ExportError(
            f"{out}: is a mount point, which cannot be replaced as a whole; give a folder inside it: "
            f"--out {out / 'bundle'}"
        )
    place = next(parent for parent in out.parents if parent.exists())
    try:
        # to try is the only sure way: what may be written is not always what the permissions say
        tempfile.TemporaryDirectory(prefix=f".{out.name}.try-", dir=place).cleanup()
        _clear(out)
    except OSError as error:
        raise ExportError(
            f"{place}: cannot be written ({error.strerror or error}), and a bundle is made beside its place; "
            "give another --out"
        ) from error
    return _manifest(out)


@contextmanager
def staged(out: Path, before: bytes | None) -> Iterator[Path]:
    """A copy of the directory to work in; it takes the directory's place at the end, or vanishes on an error.

    `before` is what `prepare` found: ExportError where another export has changed it since.
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
            # whatever came between the two, Ctrl-C too: the old bundle goes back
            if old.exists() and not out.exists():
                old.rename(out)
            raise
    except OSError as error:
        # a tree that could not be copied is told as a list, file by file
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
        # one that is there and cannot be read is refused by whoever reads it
        return None


def _clear(out: Path) -> None:
    """Remove what exports that were killed have left, or, where they had moved the old bundle only, put it back."""
    left = {kind: sorted(out.parent.glob(f".{glob.escape(out.name)}.{kind}-*")) for kind in ("old", "new")}
    for kind, paths in left.items():
        for path in paths:
            number = path.name.rpartition("-")[2]
            if not number.isdecimal() or _runs(int(number)):
                continue
            if kind == "old" and not out.exists():
                path.rename(out)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether a process of that number may run, other than this one, which has left nothing yet."""
    if process == os.getpid():
        return False
    if os.name != "posix":
        # elsewhere to ask is to end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        # somebody else's
        return True
    return True
