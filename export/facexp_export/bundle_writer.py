"""A training run -> its part of a bundle, proved and put in place as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from facexp.bundle import Bundle, ModelSpec, TensorSpec
from facexp.session import Session
from facexp_export import manifest, onnx_float, parity, quantize
from facexp_export.errors import ExportError, ParityError
from facexp_export.faces import drawn_faces, read_faces, real_faces
from facexp_export.measure import measure
from facexp_export.parity import Measured, Precision
from facexp_export.run import read_run, write_json
from facexp_export.tasks import INPUT_NAME, TASKS, Task

PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
SINGLE_FACES = 64
"""How many faces are also run one at a time, against the same faces in one batch."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    files: dict[Precision, Path]
    """ONNX file by precision."""
    measured: list[Measured]
    """The figures of the parity check; all passed."""


def export_run(
    run_directory: Path, out: Path, data: Path | None = None, report: Callable[[str], None] = lambda line: None
) -> Exported:
    """Export a training run into the bundle directory `out`, beside the model of the other task if it is there.

    `data` replaces the faces' place that the run's config.json names. `report` gets a line of text per step, and the
    table of the parity check. How the training crops are framed is measured at a run's first export and kept in
    RUN/preprocessing.json; for an emotion run that takes a keypoint network in `out`. The work is done in a directory
    beside `out` that takes its place at the end, so `out` holds either the whole new bundle or what it held before.

    Raises ParityError when a file differs from the trained model beyond parity's limits, ExportError for a run, data or
    directory that cannot be used, BundleError when the runtime would refuse the bundle, facexp_train's DataError.
    """
    run = read_run(run_directory)
    task = run.task
    out = out.resolve()
    models = manifest.read(out)["models"]
    data = data or run.data
    if data is None or not data.exists():
        place = "config.json names no data" if data is None else f"{data}: no such data"
        raise ExportError(f"{place}; give the faces the run was trained on with --data")
    report(f"reading faces from {data}")
    everything = read_faces(task, data, int(run.training["config"].get("seed", 0)))
    faces = real_faces(everything, data)
    report(f"loading {run.model}")
    model = onnx_float.load_model(run.model, task)
    reference = onnx_float.predict(model, faces.parity)
    parity.check_reference(reference, task.kind)
    if run.preprocessing is None:
        report("measuring how the training faces are framed")
        measured_crops = measure(everything, list(reference), out, report)
        write_json(run_directory / "preprocessing.json", measured_crops)
        run = replace(run, preprocessing=measured_crops)
    with _staged(out) as stage:
        files = {precision: stage / f"{task.name}.{precision}.onnx" for precision in PRECISIONS}
        report(f"writing {files['float32'].name}")
        onnx_float.write_float32(model, task, files["float32"])
        report(f"writing {files['int8'].name}, calibrated on {len(faces.calibration)} training faces")
        recipe = quantize.write_int8(files["float32"], files["int8"], faces.calibration, task.kind)
        report(f"comparing both with the trained model on {len(faces.parity)} validation faces")
        measured = [
            item
            for precision in PRECISIONS
            for item in _judge(files[precision], precision, reference, faces.parity, task)
        ]
        report(parity.table(measured))
        failed = [item for item in measured if not item.passed]
        if failed:
            raise ParityError(
                f"{run_directory}: {len(failed)} figures of the exported files are beyond their limits, first "
                f"{failed[0].precision} {failed[0].output}, {failed[0].metric}; {out} stays as it was"
            )
        crops = drawn_faces(task.size)
        golden: dict[str, NDArray[np.generic]] = {
            "input": crops,
            **run_onnx(files["float32"], crops),
        }
        manifest.write_golden(stage, golden, task.name)
        models[task.name] = manifest.entry(run, list(reference), files, measured, recipe, len(faces.parity))
        manifest.write(stage, models)
        if len(models) == len(TASKS):
            _read_back(stage)
    return Exported({precision: out / path.name for precision, path in files.items()}, measured)


def open_session(path: Path) -> Session:
    """An ONNX file of an export, as the runtime runs it on the CPU."""
    graph = onnx.load(path).graph
    row = {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]) for value in graph.output}
    size = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    spec = ModelSpec(
        name=path.name,
        files={},
        input=TensorSpec(INPUT_NAME, "uint8", (size, size, 1)),
        outputs=tuple(TensorSpec(name, "float32", shape) for name, shape in row.items()),
        labels=(),
        size=size,
        training={},
        figures=(),
    )
    return Session(path.read_bytes(), spec, device="cpu")


def run_onnx(path: Path, crops: NDArray[np.uint8]) -> onnx_float.Outputs:
    """Outputs by name of an ONNX file of an export, for uint8 crops (N, size, size, 1)."""
    return open_session(path).run(crops)


def _judge(
    path: Path, precision: Precision, reference: onnx_float.Outputs, crops: NDArray[np.uint8], task: Task
) -> list[Measured]:
    session = open_session(path)
    few = crops[:SINGLE_FACES]
    single = [session.run(crop[None]) for crop in few]
    alone = {name: np.concatenate([outputs[name] for outputs in single]) for name in reference}
    return [
        *parity.compare(reference, session.run(crops), task.kind, precision),
        *parity.compare_batches(alone, session.run(few), task.kind, precision),
    ]


def _read_back(directory: Path) -> None:
    """Load a whole bundle as the runtime will; BundleError where it would refuse it."""
    bundle = Bundle.load(directory)
    for model in (bundle.keypoints, bundle.emotion):
        for precision in model.files:
            bundle.read(model, precision)


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A copy of the directory to work in; it takes the directory's place at the end, or vanishes on an error."""
    stage = out.with_name(f".{out.name}.new-{os.getpid()}")
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    try:
        if out.is_dir():
            shutil.copytree(out, stage)
        else:
            stage.mkdir(parents=True)
        yield stage
        try:
            if out.exists():
                out.rename(old)
            stage.rename(out)
        except BaseException:
            # whatever came between the two, Ctrl-C too: the old bundle goes back
            if old.exists() and not out.exists():
                old.rename(out)
            raise
    except OSError as error:
        raise ExportError(f"{out}: the bundle cannot be written ({error})") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
