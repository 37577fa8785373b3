"""The steps of an export, done in a process beside this one, so that a crash is one line and takes nothing along."""

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

FAULT = 3
"""Exit status of a step that has told a fault of the run, its data or its model in its last line."""
ENDED = "facexp step ended"
"""The line by which the process tells that a job is done, and that it waits for the next."""
_LAST_LINES = 8

_shared: ContextVar[_Process | None] = ContextVar("shared", default=None)


@dataclass(frozen=True, slots=True)
class Job:
    """All that a step needs to know."""

    step: str
    """"reference", the key of the file to write, or "answers" of a SavedModel."""
    task: str
    model: Path
    """The run's model.keras."""
    crops: Path
    """An npz of uint8 crops: calibration and parity, or, to be answered, crops."""
    out: Path
    """What the step writes."""
    source: Path
    """The float32 file that it starts from, where it is not the model itself."""
    method: str = "MinMax"
    """Of the calibration of int8.onnx."""
    description: str = ""
    """The JSON text that the file carries in its metadata."""
    labels: tuple[str, ...] = ()
    """Of the run, where the step reads the trained model."""

    def write(self, path: Path) -> None:
        """As a JSON file."""
        path.write_text(json.dumps(asdict(self), default=str), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Job:
        """What `write` wrote."""
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for field in fields(cls):
            if field.type == "Path":
                content[field.name] = Path(content[field.name])
        return cls(**content | {"labels": tuple(content["labels"])})


def run_step(job: Job) -> dict[str, Any]:
    """Do a job in another process and return the facts that it found out.

    Raises ExportError: its own words where the step told a fault; else step, task, signal or status and the last lines
    that the process said.
    """
    process = _shared.get()
    if process is None:
        with shared_process():
            return run_step(job)
    file = job.crops.with_name(f"{job.step}.json")
    with temporary_files():
        job.write(file)
    said, status = process.do(file)
    if status is None:
        facts: dict[str, Any] = json.loads(file.with_suffix(".facts.json").read_text(encoding="utf-8"))
        return facts
    if status == FAULT and said:
        raise ExportError(said[-1])
    last = "\n".join(f"  {line}" for line in said[-_LAST_LINES:])
    raise ExportError(f"{job.task}, step {job.step}: {_end(status)}; its last lines:\n{last}")


@contextmanager
def shared_process() -> Iterator[None]:
    """The steps inside are done by one new process, which loads TensorFlow and the converters once.

    One that was shared before makes way: it holds a gigabyte, and its next step starts another.
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
    """What does the jobs, started with the first and, where it has ended, with the next."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._aside = ExitStack()

    def do(self, job: Path) -> tuple[list[str], int | None]:
        """What it says meanwhile, and its exit status where it ended before the job did."""
        # its libraries leave files in TMPDIR, which nobody removes where it is killed
        child = self._child = self._child or _start(self._aside.enter_context(scratch()))
        assert child.stdin is not None
        assert child.stdout is not None
        # where it has ended already, what it said tells why
        with suppress(BrokenPipeError):
            child.stdin.write(json.dumps(str(job)).encode() + b"\n")
            child.stdin.flush()
        said: list[str] = []
        for line in child.stdout:
            text = line.decode(errors="replace").rstrip()
            if text == ENDED:
                return said, None
            if text:
                said.append(text)
        status = child.wait()
        self.end()
        return said, status

    def end(self) -> None:
        """Nothing that it did is lost: a job's files are complete before it tells that the job is done."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            # one that had ended did not read the last job
            with suppress(BrokenPipeError), child:
                pass
        self._aside.close()


def _start(aside: Path) -> subprocess.Popen[bytes]:
    # the converters know TensorFlow's graphs only; what TensorFlow says all the same would bury the fault
    environment = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": _path()}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "facexp_export.convert"],
        env=os.environ | environment | {"TMPDIR": str(aside)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _path() -> str:
    """This process's modules, for the next one."""
    return os.pathsep.join(path for path in sys.path if path)


def _end(status: int) -> str:
    if status >= 0:
        return f"the process ended with status {status}"
    name = signal.Signals(-status).name
    hint = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"the process was ended by {name}{hint}"
