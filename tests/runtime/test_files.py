"""Files are whole or not there, and what cannot be written is called by its own name."""

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


def test_what_was_there_stays_until_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards reports against half a file, and a full disk against what is left of one."""
    path = tmp_path / "report.json"
    write_atomically(path, b"first")

    def full(self: Path, target: Path) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(path, b"second")
    assert caught.value.filename == str(path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("report.json", b"first")]


def test_a_disk_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the messages: Linux refuses there even to remove what is not there."""

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
