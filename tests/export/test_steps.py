"""The processes that an export's steps are done in: shared, one at a time, and their crashes told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from facexp_export import steps
from facexp_export.errors import ExportError
from facexp_export.steps import Job

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
