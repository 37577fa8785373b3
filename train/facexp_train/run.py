"""Start a training run from a configuration, and load what a run left: the doors that the command line uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from facexp_train import fit
from facexp_train.builders import DEFAULT
from facexp_train.command import CONFIGS, parsed
from facexp_train.config import Task, TrainConfig
from facexp_train.emotion import EmotionJob
from facexp_train.emotion_data import EmotionFaces, read_emotion
from facexp_train.errors import DataError
from facexp_train.evaluate import Predict
from facexp_train.keypoint_data import KeypointFaces, read_keypoints
from facexp_train.keypoints import KeypointJob
from facexp_train.page import INDEX
from facexp_train.run_directory import expect_faces, taken
from facexp_train.run_page import draw_answers, draw_samples, write_page
from facexp_train.stored import damaged, read_facts, read_toml


def configure(
    task: Task, data: str, votes: str | None = None, name: str | None = None, changes: Sequence[str] = ()
) -> TrainConfig:
    """The configuration called `name`, or like the task, with changes such as "epochs=2" or "augmentation.flip=0".

    `name` is a TOML file, or one of `recipes`. It may name another one, `config = "emotion"`, and hold what differs
    from it; so may a teacher's table. DataError names an unknown key or a value of the wrong kind.
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
            # another kind of network has settings of its own
            place.clear()
        place[last] = value
    values = _with_teachers(task, values, (file,)) | {"task": task, "data": data, "votes": votes}
    return TrainConfig.from_dict(values, str(file))


def recipes(task: Task) -> list[str]:
    """Names of the configurations that come with facexp; the one called like the task is the default."""
    return sorted(file.stem for file in CONFIGS.glob(f"{task}*.toml"))


def _find(task: Task, name: str, named_in: Path | None = None) -> Path:
    """A configuration by its name, or by its file's, which begins where the file lies that names it."""
    if name in recipes(task):
        return CONFIGS / f"{name}.toml"
    file = Path(name) if named_in is None else named_in.parent / name
    if file.is_file():
        return file
    raise DataError(f"{name}: no such file, and no configuration of that name; there are {', '.join(recipes(task))}")


def _over_base(task: Task, values: dict[str, Any], within: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of a configuration laid over those of the one that it names; the files `within` are made of it."""
    if "config" not in values:
        return values
    file = _find(task, str(values["config"]), within[-1])
    if file in within:
        raise DataError(f"{within[0]}: config: {file.stem} cannot be made of itself")
    own = {key: value for key, value in values.items() if key != "config"}
    return _merged(_over_base(task, read_toml(file), (*within, file)), own)


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    if own.get("kind", base.get("kind", DEFAULT)) != base.get("kind", DEFAULT):
        # another kind of network has settings of its own
        return own
    both = {
        key: _merged(base[key], own[key])
        for key in base.keys() & own.keys()
        if isinstance(base[key], dict) and isinstance(own[key], dict)
    }
    return base | own | both


def _with_teachers(task: Task, values: dict[str, Any], within: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of a configuration with those of the teachers that it names; it stands in the files `within`.

    DataError where it holds what the command names.
    """
    if named := [name for name in ("task", "data", "votes") if name in values]:
        raise DataError(f"{within[-1]}: {named[0]} is no setting: name it on the command line, as its help says")
    if not isinstance(values.get("teachers"), list):
        return values
    teachers = []
    for teacher in values["teachers"]:
        files = within
        # one with teachers of its own has none of that configuration's
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
    """The data of a configuration, of its classes where it names some; DataError where it cannot be read."""
    if config.task == "keypoints":
        return read_keypoints(config.data, seed=config.seed, quiet=quiet)
    faces = read_emotion(config.data, config.votes, seed=config.seed, quiet=quiet)
    return faces.of(config.classes) if config.classes else faces


def check_splits(
    faces: KeypointFaces | EmotionFaces, config: TrainConfig, other: TrainConfig, quiet: bool = False
) -> None:
    """DataError where another configuration would split the same faces in another way.

    Data that names no splits is divided after the seed, so that a network of another seed may have been trained on
    faces that this one holds out.
    """
    if other.seed != config.seed and not np.array_equal(read_faces(other, quiet).split, faces.split):
        raise DataError(
            f"{config.data}: names no splits, and the networks were trained with seeds {config.seed} and {other.seed}: "
            "what the one holds out the other has learnt"
        )


def start(config: TrainConfig, out: Path, resume: bool = False, quiet: bool = False, tensorboard: bool = False) -> Path:
    """Train into the directory `out`; returns the path of model.keras.

    Teachers are trained first, into `out`/teacher1 and so on; a teacher whose run has ended is not trained again, and
    one that several networks have in common is trained once. `tensorboard` writes logs for it into the run's own
    folder. DataError where the data cannot be trained on, TrainingError where training cannot go on.
    """
    faces = read_faces(replace(config, classes=[]), quiet)
    if isinstance(faces, EmotionFaces):
        # a chosen class without a face is a mistake; one that the data could have and has not is the data's own
        if config.classes and tuple(config.classes) != faces.classes:
            faces = faces.of(config.classes)
            seen = np.unique(faces.part("train").labels)
            if unseen := [name for code, name in enumerate(faces.classes) if code not in seen]:
                raise DataError(f"{config.data}: no training face is {unseen[0]}, one of the configuration's classes")
        # a run says what its outputs mean, whatever the data said
        config = replace(config, classes=list(faces.classes))
    if not resume:
        _check_starts(faces, config, quiet)
    return _train(faces, config, out, resume, quiet, tensorboard, {})


def _check_starts(faces: KeypointFaces | EmotionFaces, config: TrainConfig, quiet: bool) -> None:
    """DataError where a run that this one or a teacher starts from was trained for something else, or on faces that
    are held out here.
    """
    for number in range(len(config.teachers)):
        _check_starts(faces, config.teacher(number), quiet)
    if not config.start_from:
        return
    before = TrainConfig.from_run(Path(config.start_from))
    if before.task != config.task:
        raise DataError(f"start_from: {config.start_from} was trained for {before.task}, this is for {config.task}")
    if before.classes and before.classes != config.classes:
        # as many in another order would fit
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
    """`runs`: by configuration, as JSON, the directories of the teachers met so far."""
    job = KeypointJob(faces, config, quiet) if isinstance(faces, KeypointFaces) else EmotionJob(faces, config, quiet)
    # a network that cannot be built, or begun with what it is to begin with, leaves no run directory behind
    model = job.build()
    if config.start_from and not resume:
        fit.load_best(Path(config.start_from), model)
    elif config.grow and not resume and isinstance(job, EmotionJob):
        job.begin_with(job.network(config.teacher(0)), model)
    wanted = [config.teacher(number) for number in range(len(config.teachers))]
    teachers = [runs.setdefault(each.to_json(), out / f"teacher{number}") for number, each in enumerate(wanted, 1)]
    with taken(config, out, resume):
        added = job.batches.faces.unlabelled if isinstance(job, EmotionJob) else ""
        with fit.writing(out, 0):
            expect_faces(faces, config, out, added)
        for each, run in zip(wanted, teachers, strict=True):
            if not all((run / name).is_file() for name in ("model.keras", INDEX)):
                _train(faces, each, run, (run / "config.json").is_file(), quiet, tensorboard, runs)
        if teachers:
            job.learn_from(teachers, out)
        with fit.writing(out, 0):
            draw_samples(job.batches, getattr(faces, "classes", ()), config, out, resume)
        path = fit.train(job, config, out, resume, quiet, tensorboard)
        with fit.writing(out, config.epochs):
            write_page(config, out, draw_answers(load_predict(out), faces, out))
    return path


def load_predict(run: Path) -> Predict:
    """The trained model of a run as a function from crops to arrays by output name; DataError where it has none."""
    path = run / "model.keras"
    if not path.is_file():
        raise DataError(f"{run}: no model.keras; let `facexp train` end, or go on with --resume")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever half a file does to Keras and to the zip reader
        raise damaged(path, error, "`facexp train` with --resume writes it anew") from error

    def predict(crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        outputs = model.predict(crops, batch_size=512, verbose=0)
        return outputs if isinstance(outputs, dict) else {model.output_names[0]: outputs}

    return predict


def temperatures(run: Path) -> dict[str, float] | None:
    """What the logits of a run's heads are divided by, None where its network has no temperatures."""
    path = run / "summary.json"
    mend = "`facexp train` with --resume writes it anew"
    found: dict[str, float] | None = read_facts(path, mend).get("temperatures") if path.is_file() else None
    return found
