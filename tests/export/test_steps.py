"""The processes that an export's steps are done in: shared, one at a time, and their crashes told."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from facexp.bundle import shipped
from facexp_export import convert, keras_model, steps
from facexp_export.errors import ExportError
from facexp_export.steps import Job
from facexp_export.tasks import TASKS

SHIPPED = shipped() / "keypoints.float32.onnx"
DONE = """job=$(echo "$line" | tr -d '"'); echo '{}' > "${job%.json}.facts.json"; echo; echo 'facexp step ended'"""
"""What a shell script says and leaves when it has done the job whose line it read."""


def stand_in(patch: pytest.MonkeyPatch, directory: Path, words: str) -> Job:
    """A job whose process is a shell script of these words."""
    script = directory / "python"
    script.write_text(f"#!/bin/sh\n{words}\n")
    script.chmod(0o755)
    patch.setattr(steps.sys, "executable", str(script))
    return Job("int8.onnx", "emotion", directory, directory / "crops.npz", directory / "out", directory)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("echo calibrating; kill -SEGV $$", r"emotion, step int8\.onnx: .* by SIGSEGV; its last lines:\n  calibrating"),
        ("echo last words >&2; exit 1", r"emotion, step int8\.onnx: .* status 1; its last lines:\n  last words"),
        ("kill -KILL $$", r"step int8\.onnx: .* by SIGKILL \(out of memory\?\)"),
        ("echo noise; echo model.keras: is no model; exit 3", r"^model\.keras: is no model$"),
    ],
)
def test_a_crash_says_which_step_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    """Guards a converter that dies: the step, the signal or the status, and its last lines."""
    with pytest.raises(ExportError, match=message):
        steps.run_step(stand_in(monkeypatch, tmp_path, words))


def test_steps_share_a_process_and_a_crash_starts_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the seconds that TensorFlow takes to load, once an export, and an export after one that crashed."""
    words = f"echo >> starts; read line; {DONE}; read line; {DONE}; read line || exit 1; exit 7"
    monkeypatch.chdir(tmp_path)
    job = stand_in(monkeypatch, tmp_path, words)

    def starts() -> int:
        return len((tmp_path / "starts").read_text().splitlines())

    with steps.shared_process():
        assert steps.run_step(job) == steps.run_step(job) == {}
        assert starts() == 1
        with pytest.raises(ExportError, match="status 7"):
            steps.run_step(job)
        assert steps.run_step(job) == {}
        assert starts() == 2
        with steps.shared_process():
            steps.run_step(job)
        assert starts() == 3
    steps.run_step(job)
    assert starts() == 4


def test_one_process_is_there_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the memory of a small machine: what wrote the files is gone while another process proves them."""
    monkeypatch.chdir(tmp_path)
    job = stand_in(monkeypatch, tmp_path, f"echo $$ > number; read line; {DONE}; read line")
    with steps.shared_process():
        steps.run_step(job)
        number = int((tmp_path / "number").read_text())
        os.kill(number, 0)
        with steps.shared_process(), pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def test_what_its_libraries_leave_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards TMPDIR: TensorFlow writes code there, and removes it only where it is not killed."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(tmp_path)
    leave = 'read line; echo "$TMPDIR" > place; echo > "$TMPDIR/left"'
    job = stand_in(monkeypatch, tmp_path, f"{leave}; {DONE}; {leave}; exit 1")
    with steps.shared_process():
        steps.run_step(job)
        place = Path((tmp_path / "place").read_text().strip())
        assert [path.name for path in place.iterdir()] == ["left"]
        assert place.parent == scratch
        with pytest.raises(ExportError):
            steps.run_step(job)
        assert not list(scratch.iterdir())
        steps.run_step(job)
    assert not list(scratch.iterdir())


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """Guards the place of temporary files, for what a step is told and for what it makes."""
    job = Job("float16.onnx", "keypoints", tmp_path, tmp_path / "crops.npz", Path("/dev/full"), SHIPPED)
    with pytest.raises(ExportError, match=r"^step float16\.onnx: .*No space left on device; it writes /dev/full, .*$"):
        steps.run_step(job)
    (tmp_path / "float16.onnx.json").unlink()
    (tmp_path / "float16.onnx.json").symlink_to("/dev/full")
    message = r": a temporary file cannot be written \(No space left on device\); name a directory .* with TMPDIR$"
    with pytest.raises(ExportError, match=message):
        steps.run_step(job)


def test_a_step_ends_with_the_export_that_asked_for_it(tmp_path: Path) -> None:
    """Guards the memory and the cores of a machine whose export was killed in the middle of a long step."""
    source = tmp_path / "source"
    os.mkfifo(source)
    job = Job("float16.onnx", "keypoints", tmp_path, tmp_path / "crops.npz", tmp_path / "out", source)
    job.write(tmp_path / "job.json")
    code = (
        "import sys; from pathlib import Path; from facexp_export.steps import Job, run_step; "
        f"run_step(Job.read(Path({str(tmp_path / 'job.json')!r})))"
    )
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}) as export:
        # opens when the step does
        waiting = os.open(source, os.O_WRONLY)
        export.kill()

    def write_on() -> None:
        for _ in range(200):
            os.write(waiting, b" ")
            time.sleep(0.05)

    try:
        with pytest.raises(BrokenPipeError):
            write_on()
    finally:
        os.close(waiting)


def test_the_trained_model_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the same TFLite bytes whatever was exported before: names in the file count how often it was loaded."""
    loaded: list[Path] = []
    monkeypatch.setattr(keras_model, "load_model", lambda path, task: loaded.append(path))
    convert._trained.cache_clear()
    for path in (tmp_path / "one", tmp_path / "one", tmp_path / "another"):
        convert._trained(path, TASKS["emotion"])
    convert._trained.cache_clear()
    assert loaded == [tmp_path / "one", tmp_path / "another"]
