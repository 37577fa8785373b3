"""The complete proof of a bundle, in five steps, with real faces.

An export runs it before it replaces the bundle directory; `facexp verify` runs it on any machine that has the data. The
export has stored the trained model's answers, so TensorFlow is needed only to compare a SavedModel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from facexp.arrays import load_arrays
from facexp.bundle import KEYS, MANIFEST, SAVEDMODEL, ModelSpec, digest, load_models, read_model
from facexp.engines import ENGINES
from facexp.errors import BundleError, DeviceError, EngineError, FacexpError
from facexp.proof.device import cannot_run, device, golden_crops, read_golden
from facexp.proof.run import NO_DATA, NOTHING_FAILED, report
from facexp.proof.structure import TASKS as BOTH
from facexp.proof.structure import structure
from facexp.proof.verdict import Check, Report, Step, failing
from facexp.session import Session
from facexp_export import proof_numbers, proof_task
from facexp_export.errors import ExportError
from facexp_export.faces import read_faces, real_faces
from facexp_export.manifest import REFERENCE
from facexp_export.proof_layers import layers
from facexp_export.proof_numbers import Reference
from facexp_export.proof_task import Labelled
from facexp_export.recipe import PRECISIONS, Recipe, read_recipe
from facexp_export.run import seed_of
from facexp_export.scratch import scratch, temporary_files
from facexp_export.steps import Job, run_step, shared_process
from facexp_export.tasks import TASKS, Outputs, ProgressCallback
from facexp_train.augmentation.framing import jittered_crops
from facexp_train.data.emotion_data import EmotionFaces, truths
from facexp_train.data.keypoint_data import KeypointFaces
from facexp_train.data.splits import pixel_hash
from facexp_train.errors import DataError
from facexp_train.exploration.survey import task_of

Faces = KeypointFaces | EmotionFaces


@dataclass(frozen=True, slots=True)
class Data:
    """All faces of one task."""

    place: Path
    """Where they were read from, for messages."""
    faces: Faces


def verify(directory: Path, data: Sequence[Path] = (), say: ProgressCallback = lambda line: None) -> Report:
    """Run all five steps for the bundle in a directory, with data for one task, both or none.

    `say` receives a line of text for each stage. Steps 2 and 3 are skipped for a task without data. Raises ExportError
    if the data or the bundle cannot be used, and facexp_train's DataError.
    """
    places: dict[str, Path] = {}
    for path in data:
        if not path.exists():
            raise ExportError(f"{path}: no such data")
        task: str = task_of(path)
        if task in places:
            raise ExportError(f"{path} and {places[task]} both hold faces for {task}; give one of them")
        places[task] = path
    models = {model.name: model for model in _models(directory)}
    faces, unread = {}, {}
    for task, path in places.items():
        model = models.get(task)
        if model is None:
            # step 1 reports the reason; without the model's labels and seed, its faces cannot be read
            continue
        say(f"reading {task} faces from {path}")
        try:
            seed = seed_of(model.training, directory / MANIFEST)
            faces[task] = Data(path, read_faces(TASKS[task].with_labels(model.labels), path, seed))
        except DataError as error:
            # with labels that are not those of its files, the bundle is at fault: step 1 says so
            if not structure(directory).failures:
                raise
            unread[task] = f"not compared, {error}"
    with shared_process():
        return examine(directory, faces, say=say, unread=unread)


def examine(
    directory: Path,
    data: Mapping[str, Data],
    tasks: Sequence[str] = BOTH,
    say: ProgressCallback = lambda line: None,
    unread: Mapping[str, str] = MappingProxyType({}),
) -> Report:
    """Run the five steps for a directory that must hold the models of `tasks`.

    `data` has faces by task, and `unread` says why there are none although they were given.
    """
    first = structure(directory, tasks)
    subjects = [Subject(directory, model) for model in _models(directory)]
    crops: dict[str, NDArray[np.uint8]] = {}
    second, third = _StepBuilder(2), _StepBuilder(3)
    if not subjects:
        for step in (second, third):
            step.notes.append("nothing to compare: the models cannot be read, see step 1")
    for subject in subjects:
        task = subject.model.name
        if task not in data:
            for step in (second, third):
                step.notes.append(f"{task}: {unread.get(task, NO_DATA)}")
            continue
        try:
            recipe = read_recipe(directory / f"{task}.recipe.toml")
        except ExportError as error:
            second.checks.append(Check("limits and margins", task, passed=False, note=str(error)))
            third.notes.append(f"{task}: not compared, its recipe cannot be read")
            continue
        faces = data[task].faces
        crops[task] = as_exported(subject, faces, real_faces(faces, data[task].place, recipe).parity, recipe)
        say(f"{task}: numbers of {len(subject.keys)} files on {len(crops[task])} faces")
        second.checks += numbers(subject, crops[task], recipe)
        held_out = labelled(faces, recipe.verification.split, subject.model)
        say(f"{task}: losses of {len(subject.keys)} files on {len(held_out.crops)} held-out faces")
        third.checks += [_check_disjoint(task, faces, recipe), *losses(subject, held_out, recipe)]
        second.notes += subject.notes
    fourth = device(directory)
    steps = [first, second.step(), third.step(), fourth]
    return report(directory, [*steps, _layers(subjects, failing(steps[1:]), crops)])


def as_exported(subject: Subject, faces: Faces, drawn: NDArray[np.uint8], recipe: Recipe) -> NDArray[np.uint8]:
    """Return the crops that the export used.

    Emotion crops are whole dataset images, and are found by their hashes. For keypoints, or if one is not found, the
    result is `drawn`, the crops drawn now. Those may differ: the draw depends on the number of training faces, which
    changes if the rule that finds copies of faces changes.
    """
    if isinstance(faces, KeypointFaces):
        return drawn
    try:
        wanted = Reference.read(subject.directory, subject.task).hashes
    except BundleError:
        # reported by step 2
        return drawn
    held = faces.part(recipe.verification.split).images[..., None]
    places = {digest.tobytes(): place for place, digest in enumerate(proof_numbers.crop_hashes(held))}
    found = [places.get(digest.tobytes(), -1) for digest in wanted]
    return drawn if -1 in found else held[found]


def labelled(faces: Faces, split: str, model: ModelSpec) -> Labelled:
    """Return the held-out faces of one split, with the true labels or points for each output of a model.

    A head whose labelling is not in the data (FER+ without the votes) is evaluated against the dataset's own labels.
    """
    part = faces.part(split)
    names = [output.name for output in model.outputs]
    if isinstance(part, KeypointFaces):
        crops, points = jittered_crops(part)
        return Labelled(crops, dict.fromkeys(names, points), part.group, model.labels)
    known = truths(part)
    truth = {name: known.get(name, part.labels) for name in names}
    return Labelled(part.images[..., None], truth, part.group, model.labels)


@dataclass(slots=True)
class _StepBuilder:
    """Collects the checks and notes of one step."""

    number: int
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def step(self) -> Step:
        return Step(self.number, tuple(self.checks), tuple(self.notes))


class Subject:
    """One model of a bundle, with a session for each of its files that can be run here.

    `notes` names the files that cannot be run, and why.
    """

    def __init__(self, directory: Path, model: ModelSpec) -> None:
        self.directory = directory
        self.model = model
        self.task = TASKS[model.name].with_labels(model.labels)
        self.notes: list[str] = []
        self._sessions: dict[str, Session | None] = {}
        for key, file in model.files.items():
            try:
                if file.format in ENGINES:
                    self._sessions[key] = Session(read_model(directory, model, key), model, key)
                elif find_spec("tensorflow") is None:
                    self.notes.append(f"{file.file}: not compared, it needs TensorFlow (the export extra)")
                elif digest(self.path(key))[0] == file.sha256:
                    self._sessions[key] = None
            except (BundleError, DeviceError, OSError) as error:
                self.notes.append(f"{file.file}: not compared, {error}")

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the files that can be run."""
        return tuple(self._sessions)

    def answers(self, key: str, crops: NDArray[np.uint8]) -> Outputs:
        """Run one file on uint8 crops; return its outputs by name. A SavedModel is run in a child process.

        Raises EngineError if the file loads, but does not run on these crops.
        """
        session = self._sessions[key]
        if session is not None:
            try:
                return session.run(crops)
            except Exception as error:  # onnxruntime and LiteRT raise errors of many types
                raise EngineError(cannot_run(len(crops), error)) from error
        with scratch() as folder:
            saved, out = folder / "crops.npz", folder / "answers.npz"
            with temporary_files():
                np.savez(saved, crops=crops)
            run_step(Job("answers", self.task.name, self.path(key), saved, out, self.path(key)))
            return load_arrays(out)

    def path(self, key: str) -> Path:
        """Return the path of a file."""
        return self.directory / self.model.files[key].file


def _models(directory: Path) -> Sequence[ModelSpec]:
    try:
        return load_models(directory)
    except BundleError:
        # reported by step 1
        return ()


def numbers(subject: Subject, crops: NDArray[np.uint8], recipe: Recipe) -> Iterator[Check]:
    """Yield the checks of step 2 for one model."""
    task = subject.task
    try:
        reference = Reference.read(subject.directory, task)
    except BundleError as error:
        yield Check("trained model's answers", task.name, passed=False, note=str(error))
        return
    for output in subject.model.outputs:
        if output.name not in reference.outputs:
            note = f"{REFERENCE} has no answers of this output; export the run again"
            yield Check("trained model's answers", task.name, output=output.name, passed=False, note=note)
    about = list(proof_numbers.check_reference(task, reference, crops))
    yield from about
    if about[0].passed is False:
        # not the same crops, so the answers cannot be compared
        return
    sample = crops[: proof_numbers.SINGLE_CROPS]
    for key in subject.keys:
        try:
            answers = subject.answers(key, crops)
            single = [] if key == SAVEDMODEL else [subject.answers(key, crop[None]) for crop in sample]
        except EngineError as error:
            yield Check("runs", task.name, key, passed=False, note=str(error))
            continue
        precision = subject.model.files[key].precision
        yield from proof_numbers.compare(task, key, precision, answers, reference.outputs, recipe.tolerances)
        if key == SAVEDMODEL:
            continue
        alone = {name: np.concatenate([each[name] for each in single]) for name in answers}
        together = {name: values[: len(sample)] for name, values in answers.items()}
        yield from proof_numbers.compare_batches(task, key, alone, together, recipe.tolerances.float32_spread)


def _check_disjoint(task: str, faces: Faces, recipe: Recipe) -> Check:
    """Check that no held-out face is in the calibration split: on calibration faces a file looks better than it is."""
    seen, held_out = (faces.part(split).images for split in (recipe.calibration.split, recipe.verification.split))
    both = int(np.isin(pixel_hash(held_out), pixel_hash(seen)).sum())
    note = f"{both} held-out faces are among those of the calibration split; give data without copies" if both else ""
    return Check("held-out faces were not calibrated on", task, passed=not both, note=note)


def losses(subject: Subject, faces: Labelled, recipe: Recipe) -> Iterator[Check]:
    """Yield the checks of step 3 for one model."""
    task = subject.model.name
    files = subject.model.files
    exact = min(subject.keys, key=lambda key: PRECISIONS.index(files[key].precision), default=None)
    if exact is None or files[exact].precision == "int8":
        # if it has a more exact file that cannot be run here, the notes of step 2 say so, and nothing is proved
        if all(file.precision == "int8" for file in files.values()):
            note = "no float32 or float16 file to compare the others with; export one too"
            yield Check("loss at the task", task, passed=False, note=note)
        return
    base: Outputs | None = None
    for key in (exact, *(key for key in subject.keys if key != exact)):
        try:
            answers = subject.answers(key, faces.crops)
        except EngineError as error:
            yield Check("runs", task, key, passed=False, note=str(error))
            continue
        yield from proof_task.check_finite(task, key, answers)
        if key == exact:
            base = answers
            yield from proof_task.base_figures(task, key, faces, answers)
        elif base is not None:
            yield from proof_task.compare(task, key, faces, base, answers, recipe.margins)


def _layers(
    subjects: Sequence[Subject], failed: Sequence[tuple[str, str]], crops: Mapping[str, NDArray[np.uint8]]
) -> Step:
    """Run step 5: compare the layers of each failed file that can be run with those of the most exact ONNX file."""
    checks: list[Check] = []
    notes: list[str] = []
    for subject in subjects:
        name = subject.model.name
        base = next((key for key in KEYS if key.endswith(".onnx") and key in subject.keys), None)
        for key in subject.keys:
            if (name, key) not in failed:
                continue
            if base is None or key == base:
                notes.append(f"{name} {key}: layers are compared with those of {base or 'an ONNX file'}")
                continue
            try:
                some = crops[name] if name in crops else golden_crops(read_golden(subject.directory), subject.model)
                checks += layers(name, key, subject.path(base), subject.path(key), some)
            except FacexpError as error:
                notes.append(f"{name} {key}: {error}")
    return Step(5, tuple(checks), tuple(notes) or (() if checks else (NOTHING_FAILED,)))
