"""The place of a bundle: refused before the work where it cannot be taken, and what a killed export left there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from facexp_export.bundle_writer import export_run
from facexp_export.errors import ExportError
from facexp_export.stage import prepare, staged


@pytest.mark.parametrize(
    ("out", "message"),
    [
        # what Linux always mounts, and lets nobody write, root neither
        ("/proc", "^/proc: is a mount point, .*; give a folder inside it: --out /proc/bundle$"),
        ("/proc/new/bundle", r"^/proc: cannot be written \(.*\), and a bundle is made in a folder next to it; give"),
    ],
)
def test_a_place_that_cannot_be_taken_is_refused_at_once(emotion_run: Path, out: str, message: str) -> None:
    """Guards the minutes before the one moment that needs the place: not a face is read."""
    said: list[str] = []
    with pytest.raises(ExportError, match=message):
        export_run(emotion_run, Path(out), say=said.append)
    assert said == []


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        return process.pid


def folder(path: Path, manifest: str) -> Path:
    path.mkdir()
    (path / "manifest.json").write_text(manifest)
    return path


def test_what_a_killed_export_left_is_removed(tmp_path: Path, dead: int) -> None:
    """Guards the disk; what belongs to an export that runs, or to another bundle, is not touched."""
    out = folder(tmp_path / "bundle", "mine")
    stays = {f".bundle.new-{os.getppid()}", f".bundle.old-{os.getppid()}", f".bundle2.new-{dead}", ".bundle.new-x"}
    for name in (f".bundle.new-{dead}", f".bundle.new-{os.getpid()}", f".bundle.old-{dead}", *stays):
        folder(tmp_path / name, "left")
    assert prepare(out) == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", *stays}


def test_a_bundle_that_a_killed_export_had_moved_aside_is_put_back(tmp_path: Path, dead: int) -> None:
    """Guards against an export that sees no bundle, and makes one that lacks the other network."""
    folder(tmp_path / f".bundle.old-{dead}", "mine")
    folder(tmp_path / f".bundle.new-{dead}", "unproved")
    assert prepare(tmp_path / "bundle") == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("there", [True, False])
def test_what_another_export_wrote_meanwhile_stays(tmp_path: Path, there: bool) -> None:
    """Guards the one of two exports into a directory that ends first."""
    out = tmp_path / "bundle"
    if there:
        folder(out, "as it was")
    before = prepare(out)

    def export() -> None:
        with staged(out, before) as stage:
            (stage / "manifest.json").write_text("lacks the other network")
            out.mkdir(exist_ok=True)
            (out / "manifest.json").write_text("the other network")

    with pytest.raises(ExportError, match="bundle: was changed by another export meanwhile; export again"):
        export()
    assert (out / "manifest.json").read_text() == "the other network"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_that_cannot_be_copied_is_one_fault(tmp_path: Path) -> None:
    """Guards the line on a full disk, where each file fails."""
    out = folder(tmp_path / "bundle", "mine")
    for name in ("a.onnx", "b.onnx"):
        (out / name).symlink_to("nowhere")
    message = r"cannot be written \([^(]*No such file or directory: '[^']*onnx'\)$"
    with pytest.raises(ExportError, match=message), staged(out, prepare(out)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
