"""The steps of an export, each started as a process of its own, so that a crash is one line and takes nothing along."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from facexp_export.errors import ExportError

FAULT = 3
"""Exit status of a step that has told a fault of the run, its data or its model in its last line."""
_LAST_LINES = 8


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
    """Do a job in a process of its own and return the facts that it found out.

    Raises ExportError: its own words where the step told a fault; else step, task, signal or status and the last lines
    that the process said.
    """
    file = job.crops.with_name(f"{job.step}.json")
    job.write(file)
    # the converters know TensorFlow's graphs only; what TensorFlow says all the same would bury the fault
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": _path()}
    done = subprocess.run(
        [sys.executable, "-m", "facexp_export.convert", str(file)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    said = [line for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
    if done.returncode == FAULT and said:
        raise ExportError(said[-1])
    if done.returncode:
        last = "\n".join(f"  {line}" for line in said[-_LAST_LINES:])
        raise ExportError(f"{job.task}, step {job.step}: {_end(done.returncode)}; its last lines:\n{last}")
    facts: dict[str, Any] = json.loads(file.with_suffix(".facts.json").read_text(encoding="utf-8"))
    return facts


def _path() -> str:
    """This process's modules, for the next one."""
    return os.pathsep.join(path for path in sys.path if path)


def _end(status: int) -> str:
    if status >= 0:
        return f"the process ended with status {status}"
    name = signal.Signals(-status).name
    hint = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"the process was ended by {name}{hint}"
