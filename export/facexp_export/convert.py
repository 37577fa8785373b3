"""The steps of an export, and the child process that runs them.

The process reads paths of job files from standard input, one JSON string per line. Steps that read the trained model
need TensorFlow, whose crashes end the whole process; the other steps need the converters' libraries. The parent process
(`facexp_export.steps`) needs neither.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from facexp.arrays import load_arrays
from facexp.errors import FacexpError, one_line
from facexp_export.steps import EXIT_USER_ERROR, JOB_DONE, Job
from facexp_export.tasks import TASKS, Task

Facts = dict[str, int]


def reference(job: Job, task: Task) -> None:
    """Write the trained model's outputs for the parity crops as an npz file."""
    from facexp_export.keras_model import predict

    _save(job.out, predict(_trained(job.model, task), _crops(job, "parity")))


def onnx_float32(job: Job, task: Task) -> None:
    """Write float32.onnx."""
    from facexp_export.onnx_float import write_float32

    write_float32(_trained(job.model, task), task, job.out, job.description)


def onnx_float16(job: Job, task: Task) -> None:
    """Write float16.onnx, from float32.onnx."""
    from facexp_export.onnx_half import write_float16

    write_float16(job.source, job.out, task.kind, job.description)


def onnx_int8(job: Job, task: Task) -> Facts:
    """Write int8.onnx, from float32.onnx; the facts are the numbers of int8 and of float32 convolutions."""
    from facexp_export.quantize import write_int8

    return write_int8(job.source, job.out, _crops(job, "calibration"), task.kind, job.method, job.description)


def tflite_float32(job: Job, task: Task) -> None:
    """Write float32.tflite."""
    from facexp_export.tflite import write_float32

    write_float32(_trained(job.model, task), task, job.out, job.description)


def tflite_float16(job: Job, task: Task) -> None:
    """Write float16.tflite, from float32.tflite."""
    from facexp_export.tflite import write_float16

    write_float16(job.source, job.out, job.description)


def tflite_int8(job: Job, task: Task) -> None:
    """Write int8.tflite, from float32.tflite."""
    from facexp_export.tflite import write_int8

    write_int8(job.source, job.out, _crops(job, "calibration"), task.kind, job.description)


def savedmodel(job: Job, task: Task) -> None:
    """Write the SavedModel."""
    from facexp_export.savedmodel import write_savedmodel

    write_savedmodel(_trained(job.model, task), task, job.out)


def answers(job: Job, task: Task) -> None:
    """Write a SavedModel's outputs for crops as an npz file."""
    from facexp_export import savedmodel

    _save(job.out, savedmodel.answers(job.source, _crops(job, "crops")))


STEPS: dict[str, Callable[[Job, Task], Facts | None]] = {
    "reference": reference,
    "float32.onnx": onnx_float32,
    "float16.onnx": onnx_float16,
    "int8.onnx": onnx_int8,
    "float32.tflite": tflite_float32,
    "float16.tflite": tflite_float16,
    "int8.tflite": tflite_int8,
    "savedmodel": savedmodel,
    "answers": answers,
}


@lru_cache(maxsize=1)
def _trained(model: Path, task: Task) -> Any:
    """Return the trained model, loaded once for all steps.

    Names in a TFLite file count how often the model was loaded before, so a second load would change the file's bytes.
    """
    from facexp_export.keras_model import load_model

    return load_model(model, task)


def _crops(job: Job, name: str) -> Any:
    return load_arrays(job.crops)[name]


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    np.savez(path, **arrays)


def _end_with(parent: int) -> None:
    """End this process when the parent process is gone, because the result of a long step would not be used."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(EXIT_USER_ERROR)


def main() -> int:
    """Run the jobs in turn, and write the facts that each reports next to its job file.

    An error caused by the user's files or disk is printed as the last line, and ends the process with status
    EXIT_USER_ERROR.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    for line in sys.stdin:
        path = Path(json.loads(line))
        job = Job.read(path)
        try:
            task = TASKS[job.task]
            facts = STEPS[job.step](job, task.with_labels(job.labels) if job.labels else task)
            path.with_suffix(".facts.json").write_text(json.dumps(facts or {}), encoding="utf-8")
        except FacexpError as error:
            print(error, file=sys.stderr)
            return EXIT_USER_ERROR
        except OSError as error:
            print(
                f"step {job.step}: {one_line(error)}; it writes {job.out}, and temporary files in TMPDIR: free space "
                "there, or choose other directories",
                file=sys.stderr,
            )
            return EXIT_USER_ERROR
        # begin with a line break, in case a library has printed an incomplete line
        print(f"\n{JOB_DONE}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
