"""Export a training run into a bundle: write its files, prove them, and replace the bundle as a whole.

TensorFlow is not loaded here: a child process writes the files.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp.arrays import load_arrays
from facexp.bundle import KEYS, load_models
from facexp.errors import one_line
from facexp.proof.device import can_answer_picture
from facexp.proof.report import check_text, summary, verdict
from facexp.proof.verdict import Report
from facexp_export import manifest
from facexp_export.errors import ExportError, ParityError
from facexp_export.faces import drawn_faces, read_faces, real_faces
from facexp_export.measure import measure
from facexp_export.proof_numbers import Reference, check_reference, crop_hashes
from facexp_export.recipe import Recipe, read_recipe
from facexp_export.run import Json, Run, read_run, seed_of, write_json
from facexp_export.scratch import scratch, temporary_files
from facexp_export.stage import prepare_destination, staged
from facexp_export.steps import Job, run_step, shared_process
from facexp_export.tasks import Outputs, ProgressCallback, Task
from facexp_export.verify import Data, Subject, examine

SOURCES = {
    "float16.onnx": "float32.onnx",
    "int8.onnx": "float32.onnx",
    "float16.tflite": "float32.tflite",
    "int8.tflite": "float32.tflite",
}
"""Key of a file -> key of the file that it is converted from, which is written temporarily if the recipe omits it."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export."""

    files: dict[str, Path]
    """The written files, by key."""
    proof: Report
    """The proof of the bundle: no step has failed, but some may have been skipped."""


def export_run(
    run_directory: Path,
    out: Path,
    data: Path | None = None,
    recipe: Path | None = None,
    overwrite: bool = False,
    say: ProgressCallback = lambda line: None,
) -> Exported:
    """Export a training run into the bundle directory `out`, next to the model of the other task if it is there.

    `data` replaces the data path of the run's config.json. `recipe` is a file with the settings that differ from the
    default. `say` receives a line of text for each step, and the proof as text. How the training crops are framed is
    measured at a run's first export and kept in RUN/preprocessing.json; for an emotion run this requires a keypoint
    network in `out`. The work is done in a directory next to `out`, which replaces `out` at the end unless another
    export has changed it meanwhile, so `out` holds either the complete new bundle or what it held before. The task's
    existing files are replaced only with `overwrite`. The proof's results for the task are kept in TASK.report.json.

    Raises ParityError if a file fails the proof (see `facexp_export.verify`); ExportError if the run, recipe, data or
    directory cannot be used, or a step failed; BundleError if the runtime would refuse the bundle; and facexp_train's
    DataError.
    """
    run = read_run(run_directory)
    options = read_recipe(recipe)
    task = run.task
    out = out.resolve()
    before = prepare_destination(out)
    models = manifest.read(out)["models"]
    there = [task.file(key) for key in KEYS if (out / task.file(key)).exists()]
    if there and not overwrite:
        raise ExportError(f"{out}: holds {', '.join(there)} already; replace them with --overwrite")
    data = data or run.data
    if data is None or not data.exists():
        place = "config.json names no data" if data is None else f"{data}: no such data"
        raise ExportError(f"{place}; give the faces that the run was trained on with --data")
    say(f"reading faces from {data}")
    everything = read_faces(task, data, seed_of(run.training, run_directory / "config.json"))
    faces = real_faces(everything, data, options)
    with scratch() as aside, shared_process():
        work = _Work(run, options, aside)
        with temporary_files():
            np.savez(work.crops, calibration=faces.calibration, parity=faces.parity)
        say(f"running {run.model}")
        reference = work.reference()
        _check_trained_model(run, Reference(crop_hashes(faces.parity), reference), faces.parity)
        if run.preprocessing is None:
            say("measuring how the training faces are framed")
            measured_crops = measure(everything, list(reference), out, say)
            _write_preprocessing(run_directory / "preprocessing.json", measured_crops)
            run = replace(run, preprocessing=measured_crops)
        known = manifest.interface(run, list(reference))
        with staged(out, before) as stage:
            for name in there:
                _remove(stage / name)
            files, facts = work.convert(stage, manifest.description(task, known), say)
            manifest.write_reference(stage, task, crop_hashes(faces.parity), reference)
            (stage / f"{task.name}.recipe.toml").write_text(options.text(), encoding="utf-8")
            quantized = {}
            if "int8.onnx" in facts:
                calibrated = {"method": options.calibration.method, "faces": len(faces.calibration)}
                quantized = {**calibrated, **facts["int8.onnx"]}
            models[task.name] = manifest.entry(run, known, files, quantized)
            manifest.write(stage, options.name or out.name, models)
            # a new process, so that the proof depends on the files alone, not on state left from writing them
            with shared_process():
                _write_golden(stage, task)
                proof = examine(stage, {task.name: Data(data, everything)}, tuple(models), say)
            say(summary(proof))
            if not proof.passed:
                first = proof.failed[0].failures[0]
                raise ParityError(
                    f"{run_directory}: {verdict(proof)}, first {first.subject}: {check_text(first)}; {out} is unchanged"
                )
            write_json(stage / f"{task.name}.report.json", proof.for_task(task.name).to_dict())
    return Exported({key: out / path.name for key, path in files.items()}, proof)


def _write_preprocessing(path: Path, measured: Json) -> None:
    try:
        write_json(path, measured)
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be written ({error.strerror or one_line(error)}); make the run's directory writable, or "
            "export a copy of it: how its faces are framed is measured at the first export and kept there"
        ) from error


def _check_trained_model(run: Run, reference: Reference, crops: NDArray[np.uint8]) -> None:
    """Raise ParityError if agreement with the trained model would prove nothing, before any file is written."""
    for check in check_reference(run.task, reference, crops):
        if check.passed is False:
            raise ParityError(f"{run.model}: agreement with it would prove nothing: {check_text(check)}")


def _write_golden(stage: Path, task: Task) -> None:
    """Store the answers of each of the task's files to drawn crops, and of a complete bundle to a drawn picture."""
    (model,) = (model for model in load_models(stage) if model.name == task.name)
    subject = Subject(stage, model)
    crops = drawn_faces(task.size)
    manifest.write_golden(stage, task, crops, {key: subject.answers(key, crops) for key in subject.keys})
    models = load_models(stage)
    if can_answer_picture(models):
        manifest.write_picture(stage)


class _Work:
    """The steps of one export, which share a temporary directory."""

    def __init__(self, run: Run, recipe: Recipe, scratch: Path) -> None:
        self._run = run
        self._recipe = recipe
        self._scratch = scratch
        self.crops = scratch / "crops.npz"

    def reference(self) -> Outputs:
        """Return the trained model's outputs for the parity crops."""
        out = self._scratch / "reference.npz"
        self._step("reference", out)
        return load_arrays(out)

    def convert(self, stage: Path, description: str, say: ProgressCallback) -> tuple[dict[str, Path], dict[str, Json]]:
        """Write the recipe's files into `stage`; return their paths and the steps' facts, both by key."""
        task, wanted = self._run.task, self._recipe.keys
        needed = {*wanted, *(SOURCES[key] for key in wanted if key in SOURCES)}
        paths = {key: (stage if key in wanted else self._scratch) / task.file(key) for key in KEYS if key in needed}
        facts = {}
        for key, path in paths.items():
            say(f"writing {path.name}")
            facts[key] = self._step(key, path, paths.get(SOURCES.get(key, "")), description)
        return {key: paths[key] for key in wanted}, facts

    def _step(self, step: str, out: Path, source: Path | None = None, description: str = "") -> Json:
        model = self._run.model.resolve()
        method = self._recipe.calibration.method
        task = self._run.task
        job = Job(step, task.name, model, self.crops, out, source or model, method, description, task.labels)
        return run_step(job)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
