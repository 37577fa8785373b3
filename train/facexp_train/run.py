"""Start a training run from a configuration, and load the results of a run: the entry points of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from facexp_train.command import CONFIGS, parsed
from facexp_train.config import Task, TrainConfig
from facexp_train.data.emotion_data import EmotionFaces, read_emotion
from facexp_train.data.keypoint_data import KeypointFaces, read_keypoints
from facexp_train.emotion import EmotionJob
from facexp_train.errors import DataError
from facexp_train.evaluation.evaluate import Predict
from facexp_train.fitting import fit
from facexp_train.fitting.precision import chosen_dtype
from facexp_train.fitting.run_directory import expect_faces, held_run_directory
from facexp_train.keypoints import KeypointJob
from facexp_train.networks.builders import DEFAULT
from facexp_train.reporting.page import INDEX
from facexp_train.run_page import draw_predictions, draw_samples, write_page
from facexp_train.stored import damaged, read_summary, read_toml


def configure(
    task: Task, data: str, votes: str | None = None, name: str | None = None, changes: Sequence[str] = ()
) -> TrainConfig:
    """The configuration `name`, by default the task's own, with changes such as "epochs=2" or "augmentation.flip=0".

    `name` is a TOML file, or one of `recipes`. It may name a base configuration, `config = "emotion"`, and hold only
    the keys that differ; so may a teacher's table. DataError names an unknown key or a value of the wrong type.
    """
    file = _find(task, name or task)
    values = _over_base(task, read_toml(file), (file,))
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise DataError(f"--set {change}: expected KEY=VALUE, such as epochs=2 or augmentation.flip=0")
        *path, last = key.strip().split(".")
        place = values
        for name in path:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise DataError(f"--set {change}: {name} is a value, not a table")
        value = parsed(text.strip())
        if (path, last) == (["network"], "kind") and value != place.get("kind", DEFAULT):
            # the settings of one kind of network do not apply to another
            place.clear()
        place[last] = value
    values = _with_teachers(task, values, (file,)) | {"task": task, "data": data, "votes": votes}
    return TrainConfig.from_dict(values, str(file))


def recipes(task: Task) -> list[str]:
    """The names of a task's configurations that come with facexp; the one named like the task is the default."""
    return sorted(file.stem for file in CONFIGS.glob(f"{task}*.toml"))


def _find(task: Task, name: str, named_in: Path | None = None) -> Path:
    """The file of a configuration, by its name or its path; the path is relative to the file `named_in`, if given."""
    if name in recipes(task):
        return CONFIGS / f"{name}.toml"
    file = Path(name) if named_in is None else named_in.parent / name
    if file.is_file():
        return file
    raise DataError(f"{name}: no such file, and no configuration of that name; choose from {', '.join(recipes(task))}")


def _over_base(task: Task, values: dict[str, Any], within: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of a configuration, merged over those of its base configuration if it names one.

    `within` are the files that led here by naming each other; the last one holds `values`. DataError for a cycle.
    """
    if "config" not in values:
        return values
    file = _find(task, str(values["config"]), within[-1])
    if file in within:
        raise DataError(f"{within[0]}: config: {file.stem} cannot be based on itself")
    own = {key: value for key, value in values.items() if key != "config"}
    return _merged(_over_base(task, read_toml(file), (*within, file)), own)


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    if own.get("kind", base.get("kind", DEFAULT)) != base.get("kind", DEFAULT):
        # the settings of one kind of network do not apply to another
        return own
    both = {
        key: _merged(base[key], own[key])
        for key in base.keys() & own.keys()
        if isinstance(base[key], dict) and isinstance(own[key], dict)
    }
    return base | own | both


def _with_teachers(task: Task, values: dict[str, Any], within: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of a configuration, with its teachers' tables merged over the configurations that they name.

    `within` are the files that led here by naming each other. DataError for a cycle, or if the configuration sets a key
    that only the command line may set.
    """
    if named := [name for name in ("task", "data", "votes") if name in values]:
        raise DataError(f"{within[-1]}: {named[0]} is not a setting: give it on the command line, as its help says")
    if not isinstance(values.get("teachers"), list):
        return values
    teachers = []
    for teacher in values["teachers"]:
        files = within
        # a table that lists teachers replaces those of its base configuration, so it cannot close a cycle with them
        if isinstance(teacher, dict) and "config" in teacher and "teachers" not in teacher:
            file = _find(task, str(teacher["config"]), within[-1])
            if file in within:
                raise DataError(f"{within[0]}: teachers: {file.stem} cannot be among its own teachers")
            files = (*within, file)
        teachers.append(
            _with_teachers(task, _over_base(task, teacher, within), files) if isinstance(teacher, dict) else teacher
        )
    return values | {"teachers": teachers}


def read_faces(config: TrainConfig, quiet: bool = False) -> KeypointFaces | EmotionFaces:
    """The data of a configuration, only of its classes if it names some; DataError if the data cannot be read."""
    if config.task == "keypoints":
        return read_keypoints(config.data, seed=config.seed, quiet=quiet)
    faces = read_emotion(config.data, config.votes, seed=config.seed, quiet=quiet)
    return faces.of(config.classes) if config.classes else faces


def check_splits(
    faces: KeypointFaces | EmotionFaces, config: TrainConfig, other: TrainConfig, quiet: bool = False
) -> None:
    """Raise DataError if the configuration `other` would split the same faces differently.

    Data without splits of its own is split by the seed, so that a network with another seed may have been trained on
    faces that this one holds out.
    """
    if other.seed != config.seed and not np.array_equal(read_faces(other, quiet).split, faces.split):
        raise DataError(
            f"{config.data}: names no splits, and the networks were trained with seeds {config.seed} and {other.seed}: "
            "one was trained on faces that the other holds out"
        )


def start(config: TrainConfig, out: Path, resume: bool = False, quiet: bool = False, tensorboard: bool = False) -> Path:
    """Train into the directory `out`; return the path of model.keras.

    Teachers are trained first, into `out`/teacher1 and so on. A teacher with a finished run is not trained again, and
    one that several networks have in common is trained once. `tensorboard` also writes logs for TensorBoard into the
    run's directory. DataError if the data cannot be trained on, TrainingError if training cannot continue.
    """
    faces = read_faces(replace(config, classes=[]), quiet)
    if isinstance(faces, EmotionFaces):
        # a class that the configuration chose must have faces; a class that only the dataset's format has may be empty
        if config.classes and tuple(config.classes) != faces.classes:
            faces = faces.of(config.classes)
            seen = np.unique(faces.part("train").labels)
            if unseen := [name for code, name in enumerate(faces.classes) if code not in seen]:
                raise DataError(f"{config.data}: no training face is {unseen[0]}, one of the configuration's classes")
        # the run's own configuration always names the classes of its outputs
        config = replace(config, classes=list(faces.classes))
    if not resume:
        _check_starts(faces, config, quiet)
    return _train(faces, config, out, resume, quiet, tensorboard, {})


def _check_starts(faces: KeypointFaces | EmotionFaces, config: TrainConfig, quiet: bool) -> None:
    """Raise DataError if the run that this one or a teacher starts from has another task, classes or split.

    With another split it may have been trained on faces that are held out here.
    """
    for number in range(len(config.teachers)):
        _check_starts(faces, config.teacher(number), quiet)
    if not config.start_from:
        return
    before = TrainConfig.from_run(Path(config.start_from))
    if before.task != config.task:
        raise DataError(f"start_from: {config.start_from} was trained for {before.task}, this is for {config.task}")
    if before.classes and before.classes != config.classes:
        # the weights would also load if the same number of classes had another order
        was, now = (", ".join(each.classes) for each in (before, config))
        raise DataError(f"start_from: {config.start_from} was trained for {was}, this is for {now}")
    if Path(before.data).resolve() == Path(config.data).resolve():
        check_splits(faces, config, replace(config, seed=before.seed), quiet)


def _train(
    faces: KeypointFaces | EmotionFaces,
    config: TrainConfig,
    out: Path,
    resume: bool,
    quiet: bool,
    tensorboard: bool,
    runs: dict[str, Path],
) -> Path:
    """Train a network and, before it, its teachers; see `start`.

    `runs` maps the configuration of each teacher met so far, as JSON, to its run directory.
    """
    config = replace(config, dtype=chosen_dtype(config, out, resume))
    job = KeypointJob(faces, config, quiet) if isinstance(faces, KeypointFaces) else EmotionJob(faces, config, quiet)
    # before the run directory is made, so that a network that cannot be built or initialised leaves none behind
    model = job.build()
    if config.start_from and not resume:
        fit.load_best(Path(config.start_from), model)
    elif config.grow and not resume and isinstance(job, EmotionJob):
        job.begin_with(job.network(config.teacher(0)), model)
    configs = [config.teacher(number) for number in range(len(config.teachers))]
    teachers = [runs.setdefault(each.to_json(), out / f"teacher{number}") for number, each in enumerate(configs, 1)]
    with held_run_directory(config, out, resume):
        added = job.batches.faces.unlabelled if isinstance(job, EmotionJob) else ""
        with fit.writing(out, 0):
            expect_faces(faces, config, out, added)
        for each, run in zip(configs, teachers, strict=True):
            if not all((run / name).is_file() for name in ("model.keras", INDEX)):
                _train(faces, each, run, (run / "config.json").is_file(), quiet, tensorboard, runs)
        if teachers:
            job.learn_from(teachers, out)
        with fit.writing(out, 0):
            draw_samples(job.batches, getattr(faces, "classes", ()), config, out, resume)
        path = fit.train(job, config, out, resume, quiet, tensorboard)
        with fit.writing(out, config.epochs):
            write_page(config, out, draw_predictions(load_predict(out), faces, out))
    return path


def load_predict(run: Path) -> Predict:
    """The trained model of a run as a function from crops to arrays by output name; DataError without one."""
    path = run / "model.keras"
    if not path.is_file():
        raise DataError(f"{run}: no model.keras; wait until `facexp train` ends, or continue it with --resume")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a truncated file makes Keras and its zip reader raise errors of many types
        raise damaged(path, error, "`facexp train` with --resume writes it again") from error

    def predict(crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        outputs = model.predict(crops, batch_size=512, verbose=0)
        return outputs if isinstance(outputs, dict) else {model.output_names[0]: outputs}

    return predict


def temperatures(run: Path) -> dict[str, float] | None:
    """The temperatures by which the logits of a run's heads are divided, by head; None if the network has none."""
    values: dict[str, float] | None = None
    if (run / "summary.json").is_file():
        values = read_summary(run).get("temperatures")
    return values
