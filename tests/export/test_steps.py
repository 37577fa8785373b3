"""The processes that run an export's steps: shared, one at a time, and their crashes reported."""

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
"""Shell code: write and print what a step does when it has finished the job in the line that was read."""


def stand_in(patch: pytest.MonkeyPatch, directory: Path, commands: str) -> Job:
    """A job whose process is a shell script with these commands."""
    script = directory / "python"
    script.write_text(f"#!/bin/sh\n{commands}\n")
    script.chmod(0o755)
    patch.setattr(steps.sys, "executable", str(script))
    return Job("int8.onnx", "emotion", directory, directory / "crops.npz", directory / "out", directory)


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        ("echo calibrating; kill -SEGV $$", r"emotion, step int8\.onnx: .* by SIGSEGV; its last lines:\n  calibrating"),
        ("echo last words >&2; exit 1", r"emotion, step int8\.onnx: .* status 1; its last lines:\n  last words"),
        ("kill -KILL $$", r"step int8\.onnx: .* by SIGKILL \(out of memory\?\)"),
        ("echo noise; echo model.keras: is no model; exit 3", r"^model\.keras: is no model$"),
    ],
)
def test_a_crash_reports_which_step_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: str, message: str
) -> None:
    """Guards a converter that dies: the step, the signal or the status, and its last lines."""
    with pytest.raises(ExportError, match=message):
        steps.run_step(stand_in(monkeypatch, tmp_path, commands))


def test_steps_share_a_process_and_a_crash_starts_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against loading TensorFlow, which takes seconds, more than once an export, and a step after a crash."""
    commands = f"echo >> starts; read line; {DONE}; read line; {DONE}; read line || exit 1; exit 7"
    monkeypatch.chdir(tmp_path)
    job = stand_in(monkeypatch, tmp_path, commands)

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


def test_only_one_process_runs_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the memory of a small machine: the process that wrote the files has ended while another proves them."""
    monkeypatch.chdir(tmp_path)
    job = stand_in(monkeypatch, tmp_path, f"echo $$ > number; read line; {DONE}; read line")
    with steps.shared_process():
        steps.run_step(job)
        number = int((tmp_path / "number").read_text())
        os.kill(number, 0)
        with steps.shared_process(), pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def test_temporary_files_of_the_libraries_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards TMPDIR: TensorFlow writes code there, and removes it only if it is not killed."""
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


def test_a_full_disk_is_a_one_line_error(tmp_path: Path) -> None:
    """Guards the messages about a step's job file and about what it writes."""
    job = Job("float16.onnx", "keypoints", tmp_path, tmp_path / "crops.npz", Path("/dev/full"), SHIPPED)
    with pytest.raises(ExportError, match=r"^step float16\.onnx: .*No space left on device; it writes /dev/full, .*$"):
        steps.run_step(job)
    (tmp_path / "float16.onnx.json").unlink()
    (tmp_path / "float16.onnx.json").symlink_to("/dev/full")
    message = r": a temporary file cannot be written \(No space left on device\); set TMPDIR to a directory .*$"
    with pytest.raises(ExportError, match=message):
        steps.run_step(job)


def test_a_step_ends_when_its_export_is_killed(tmp_path: Path) -> None:
    """Guards the memory and the cores of a machine whose export is killed in the middle of a long step."""
    source = tmp_path / "source"
    os.mkfifo(source)
    job = Job("float16.onnx", "keypoints", tmp_path, tmp_path / "crops.npz", tmp_path / "out", source)
    job.write(tmp_path / "job.json")
    code = (
        "import sys; from pathlib import Path; from facexp_export.steps import Job, run_step; "
        f"run_step(Job.read(Path({str(tmp_path / 'job.json')!r})))"
    )
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}) as export:
        # blocks until the step opens it
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
    """Guards equal TFLite bytes whatever was exported before: names in the file count how often it was loaded."""
    loaded: list[Path] = []
    monkeypatch.setattr(keras_model, "load_model", lambda path, task: loaded.append(path))
    convert._trained.cache_clear()
    for path in (tmp_path / "one", tmp_path / "one", tmp_path / "another"):
        convert._trained(path, TASKS["emotion"])
    convert._trained.cache_clear()
    assert loaded == [tmp_path / "one", tmp_path / "another"]
