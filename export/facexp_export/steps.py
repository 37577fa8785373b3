"""Run the steps of an export in a child process.

A crash of TensorFlow or of a converter ends only the child process, and is reported as one error.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from facexp_export.errors import ExportError
from facexp_export.scratch import scratch, temporary_files

EXIT_USER_ERROR = 3
"""Exit status of the child process if its last line of output is an error message for the user."""
JOB_DONE = "facexp step ended"
"""Line that the child process prints when a job is done and it waits for the next one."""
_LAST_LINES = 8
"""Number of output lines in the error message of a child process that crashed."""

_shared: ContextVar[_Process | None] = ContextVar("shared", default=None)


@dataclass(frozen=True, slots=True)
class Job:
    """The step to run, with its input and output files."""

    step: str
    """The key of the file to write, "reference" for the trained model's outputs, or "answers" for a SavedModel's."""
    task: str
    """Name of the task, a key of `facexp_export.tasks.TASKS`."""
    model: Path
    """The run's model.keras."""
    crops: Path
    """An npz file of uint8 crops, with the arrays "calibration" and "parity", or "crops" for the step "answers"."""
    out: Path
    """The file or directory that the step writes."""
    source: Path
    """The file that the step reads: a float32 file, the SavedModel of "answers", or the model itself."""
    method: str = "MinMax"
    """Calibration method of int8.onnx, one of `facexp_export.recipe.METHODS`."""
    description: str = ""
    """JSON text to store in the file's metadata."""
    labels: tuple[str, ...] = ()
    """Labels of the run; empty for the step "answers", which needs none."""

    def write(self, path: Path) -> None:
        """Write the job as a JSON file."""
        path.write_text(json.dumps(asdict(self), default=str), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job that `write` has written."""
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for field in fields(cls):
            if field.type == "Path":
                content[field.name] = Path(content[field.name])
        return cls(**content | {"labels": tuple(content["labels"])})


def run_step(job: Job) -> dict[str, Any]:
    """Run a job in the child process and return the facts that the step reports (see `facexp_export.convert`).

    Raises ExportError: with the step's own message if the process ended with status EXIT_USER_ERROR, else with the
    task, the step, the signal or exit status, and the last lines of the process's output.
    """
    process = _shared.get()
    if process is None:
        with shared_process():
            return run_step(job)
    file = job.crops.with_name(f"{job.step}.json")
    with temporary_files():
        job.write(file)
    output, status = process.run(file)
    if status is None:
        facts: dict[str, Any] = json.loads(file.with_suffix(".facts.json").read_text(encoding="utf-8"))
        return facts
    if status == EXIT_USER_ERROR and output:
        raise ExportError(output[-1])
    last = "\n".join(f"  {line}" for line in output[-_LAST_LINES:])
    raise ExportError(f"{job.task}, step {job.step}: {_describe_exit(status)}; its last lines:\n{last}")


@contextmanager
def shared_process() -> Iterator[None]:
    """Run all steps of the block in one new child process, which loads TensorFlow and the converters only once.

    The child process of an enclosing block is ended first, because it holds a gigabyte of memory; the next step there
    starts a new one.
    """
    before, process = _shared.get(), _Process()
    if before is not None:
        before.end()
    token = _shared.set(process)
    try:
        yield
    finally:
        _shared.reset(token)
        process.end()


class _Process:
    """The child process that runs the jobs; started with the first job, and again after it has ended."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._temporary = ExitStack()

    def run(self, job: Path) -> tuple[list[str], int | None]:
        """Run the job of a file; return the process's output lines, and its exit status, None if it is still alive."""
        # a directory of its own as TMPDIR: its libraries leave files there, which remain if the process is killed
        child = self._child = self._child or _start(self._temporary.enter_context(scratch()))
        assert child.stdin is not None
        assert child.stdout is not None
        # if the process has ended already, its output, read below, gives the reason
        with suppress(BrokenPipeError):
            child.stdin.write(json.dumps(str(job)).encode() + b"\n")
            child.stdin.flush()
        output: list[str] = []
        for line in child.stdout:
            text = line.decode(errors="replace").rstrip()
            if text == JOB_DONE:
                return output, None
            if text:
                output.append(text)
        status = child.wait()
        self.end()
        return output, status

    def end(self) -> None:
        """Kill the process. Nothing is lost: a job's files are complete before the process prints JOB_DONE."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            # closing stdin fails if the process ended before it had read the last job
            with suppress(BrokenPipeError), child:
                pass
        self._temporary.close()


def _start(temporary: Path) -> subprocess.Popen[bytes]:
    # the converters read TensorFlow graphs only; TensorFlow's own log lines would hide the error message
    environment = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": _module_path()}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "facexp_export.convert"],
        env=os.environ | environment | {"TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _module_path() -> str:
    """Return this process's module search path as a value for PYTHONPATH."""
    return os.pathsep.join(path for path in sys.path if path)


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f"the process ended with status {status}"
    name = signal.Signals(-status).name
    hint = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"the process was ended by {name}{hint}"
