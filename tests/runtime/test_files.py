"""Files are complete or absent, and what cannot be written is reported by its own name."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from facexp.files import write_atomically
from facexp.sinks.clip_file import ClipFile, SinkError
from facexp.sinks.pictures import save_picture


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards reports against half-written files, and a full disk against leftovers."""
    path = tmp_path / "report.json"
    write_atomically(path, b"first")

    def full(self: Path, target: Path) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(path, b"second")
    assert caught.value.filename == str(path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("report.json", b"first")]


def test_a_read_only_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the messages: on a read-only disk Linux refuses even to remove a file that does not exist."""

    def refused(self: Path, *_: object, **__: object) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    clip = ClipFile(tmp_path / "x.mp4", 25.0)
    clip.write(np.zeros((48, 64, 3), np.uint8), 0.0)
    for name in ("write_bytes", "replace", "unlink"):
        monkeypatch.setattr(Path, name, refused)
    with pytest.raises(OSError, match=r"Read-only file system: '[^']*report\.json'"):
        write_atomically(tmp_path / "report.json", b"")
    with pytest.raises(SinkError, match=r"x\.png: cannot be written: Read-only file system"):
        save_picture(tmp_path / "x.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(SinkError, match=r"x\.mp4: cannot be written: Read-only file system"):
        clip.finish()
    clip.abandon()
