"""The destination of a bundle: refused early if it cannot be written, and cleaned of what a killed export left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from facexp_export.bundle_writer import export_run
from facexp_export.errors import ExportError
from facexp_export.stage import prepare_destination, staged


@pytest.mark.parametrize(
    ("out", "message"),
    [
        # Linux always mounts it, and not even root can write there
        ("/proc", "^/proc: is a mount point, .*; give a folder inside it: --out /proc/bundle$"),
        ("/proc/new/bundle", r"^/proc: cannot be written \(.*\), and a bundle is made in a folder next to it; give"),
    ],
)
def test_an_unusable_destination_is_refused_at_once(emotion_run: Path, out: str, message: str) -> None:
    """Guards against minutes of work before the destination is needed: not a face is read."""
    messages: list[str] = []
    with pytest.raises(ExportError, match=message):
        export_run(emotion_run, Path(out), say=messages.append)
    assert messages == []


@pytest.fixture
def dead_pid() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        return process.pid


def folder(path: Path, manifest: str) -> Path:
    path.mkdir()
    (path / "manifest.json").write_text(manifest)
    return path


def test_what_a_killed_export_left_is_removed(tmp_path: Path, dead_pid: int) -> None:
    """Guards the disk; files of an export that is running, or of another bundle, are not touched."""
    out = folder(tmp_path / "bundle", "mine")
    stays = {f".bundle.new-{os.getppid()}", f".bundle.old-{os.getppid()}", f".bundle2.new-{dead_pid}", ".bundle.new-x"}
    for name in (f".bundle.new-{dead_pid}", f".bundle.new-{os.getpid()}", f".bundle.old-{dead_pid}", *stays):
        folder(tmp_path / name, "left")
    assert prepare_destination(out) == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", *stays}


def test_a_bundle_that_a_killed_export_had_moved_aside_is_put_back(tmp_path: Path, dead_pid: int) -> None:
    """Guards against an export that finds no bundle, and makes one that lacks the other network."""
    folder(tmp_path / f".bundle.old-{dead_pid}", "mine")
    folder(tmp_path / f".bundle.new-{dead_pid}", "unproved")
    assert prepare_destination(tmp_path / "bundle") == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("there", [True, False])
def test_what_another_export_wrote_meanwhile_stays(tmp_path: Path, there: bool) -> None:
    """Guards the result of the first of two exports into a directory."""
    out = tmp_path / "bundle"
    if there:
        folder(out, "as it was")
    before = prepare_destination(out)

    def export() -> None:
        with staged(out, before) as stage:
            (stage / "manifest.json").write_text("lacks the other network")
            out.mkdir(exist_ok=True)
            (out / "manifest.json").write_text("the other network")

    with pytest.raises(ExportError, match="bundle: was changed by another export meanwhile; export again"):
        export()
    assert (out / "manifest.json").read_text() == "the other network"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_that_cannot_be_copied_gives_one_error(tmp_path: Path) -> None:
    """Guards the message on a full disk, where each file fails."""
    out = folder(tmp_path / "bundle", "mine")
    for name in ("a.onnx", "b.onnx"):
        (out / name).symlink_to("nowhere")
    message = r"cannot be written \([^(]*No such file or directory: '[^']*onnx'\)$"
    with pytest.raises(ExportError, match=message), staged(out, prepare_destination(out)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
