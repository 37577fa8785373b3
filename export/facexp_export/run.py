"""Reading and checking a training run directory, before any slow work starts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from facexp.files import write_atomically
from facexp_export.errors import ExportError
from facexp_export.tasks import TASKS, Task
from facexp_train.data.classes import checked
from facexp_train.errors import DataError
from facexp_train.stored import read_facts

MEASURE_HINT = "delete it, and the export measures it again"
"""End of each message about a wrong preprocessing.json."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """The results of a training run that an export needs."""

    task: Task
    data: Path | None
    """Place of the training data, or None if config.json names none."""
    model: Path
    preprocessing: Json | None
    """Checked content of preprocessing.json: framing and mean_shape (keypoints), or template and heads (emotion).

    None if the file does not exist.
    """
    training: Json
    """The content of config.json under "config", and that of summary.json; paths are cut to their last part."""
    figures: list[Json]
    """The figures of evaluation.json, each marked as measured on the Keras model."""


def read_run(path: Path) -> Run:
    """Read RUN/config.json and, if they exist, preprocessing.json, evaluation.json and summary.json.

    Raises ExportError that names the file and what is missing or wrong in it.
    """
    if not path.is_dir():
        raise ExportError(f"{path}: no such run directory; give the --out directory of `facexp train`")
    config = read_json(path / "config.json", "`facexp train` writes it")
    name = config.get("task")
    if name not in TASKS:
        raise ExportError(f"{path / 'config.json'}: task is {name!r}, expected one of {', '.join(TASKS)}")
    task = TASKS[name]
    if classes := config.get("classes"):
        task = task.with_labels(checked(classes, f"{path / 'config.json'}: classes"))
    model = path / "model.keras"
    if not model.is_file():
        raise ExportError(f"{model}: no such file; the run has not finished, continue it with `facexp train --resume`")
    preprocessing = _checked_preprocessing(path / "preprocessing.json", task)
    figures = _optional(path / "evaluation.json").get("figures", [])
    if not isinstance(figures, list) or not all(isinstance(figure, dict) for figure in figures):
        raise ExportError(f"{path / 'evaluation.json'}: figures must be a list of objects; run `facexp evaluate` again")
    training = {"config": config, **_optional(path / "summary.json")}
    return Run(
        task=task,
        data=Path(config["data"]) if isinstance(config.get("data"), str) else None,
        model=model,
        preprocessing=preprocessing,
        training=_without_paths(training),
        figures=[{"model": "keras", **_without_paths(figure)} for figure in figures],
    )


def seed_of(training: Mapping[str, Any], place: Path) -> int:
    """Return the training run's seed, 0 if the config has none; it determines the split of data that comes without one.

    `training` has the form of `Run.training`, which a manifest keeps too; `place` is the file that it was read from.
    Raises ExportError that names `place` if the seed is not a whole number.
    """
    config = training.get("config", {})
    seed = config.get("seed", 0) if isinstance(config, dict) else None
    if not isinstance(seed, int):
        raise ExportError(f"{place}: the training's config must have a whole number as its seed; export the run again")
    return seed


def read_json(path: Path, hint: str) -> Json:
    """Read a JSON object from a file; ExportError, which ends with `hint`, if the file is missing or damaged."""
    try:
        return read_facts(path, hint)
    except DataError as error:
        raise ExportError(str(error)) from error


def write_json(path: Path, content: Json) -> None:
    """Write a JSON object to a temporary file next to `path`, then rename it (atomically)."""
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _optional(path: Path) -> Json:
    return read_json(path, "delete it or write it again") if path.exists() else {}


def _checked_preprocessing(path: Path, task: Task) -> Json | None:
    if not path.exists():
        return None
    content = read_json(path, MEASURE_HINT)
    if task.kind == "points":
        framing = content.get("framing")
        if (
            not isinstance(framing, dict)
            or set(framing) != {"scale", "dx", "dy"}
            or not _finite(list(framing.values()), (3,))
        ):
            raise ExportError(f"{path}: framing must be an object of the numbers scale, dx and dy; {MEASURE_HINT}")
        if not framing["scale"] > 0:
            raise ExportError(f"{path}: framing.scale is {framing['scale']}, expected more than 0; {MEASURE_HINT}")
        _check_shape(path, "mean_shape", content.get("mean_shape"), task.size)
        return {"framing": framing, "mean_shape": content["mean_shape"]}
    _check_shape(path, "template", content.get("template"), task.size)
    heads = content.get("heads")
    if not isinstance(heads, list) or not heads or not set(heads) <= set(task.outputs):
        raise ExportError(f"{path}: heads is {heads!r}, expected some of {', '.join(task.outputs)}; {MEASURE_HINT}")
    return {"template": content["template"], "heads": heads}


def _check_shape(path: Path, key: str, points: object, size: int) -> None:
    """Raise ExportError unless `points` are 15 points that spread over the crop; they may lie a little outside it."""
    good = _finite(points, (15, 2))
    if good:
        array = np.asarray(points, np.float64)
        good = bool((np.abs(array - (size - 1) / 2) <= size).all() and (np.ptp(array, axis=0) > size / 8).all())
    if not good:
        raise ExportError(f"{path}: {key} must be 15 points [x, y] in pixels of the {size} px crop; {MEASURE_HINT}")


def _finite(value: object, shape: tuple[int, ...]) -> bool:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return False
    return array.shape == shape and bool(np.isfinite(array).all())


_ABSOLUTE = re.compile(r"(?:(?<=[\s='\"])|^)(?:~?/|[A-Za-z]:\\)[^\s'\"]*")


def _without_paths(value: Any, key: str = "") -> Any:
    """Return JSON with each path cut to its last part.

    Bundles are passed on, and directories of the training machine would be useless there, or reveal private details.
    """
    if isinstance(value, dict):
        return {name: _without_paths(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item, key) for item in value]
    if isinstance(value, str):
        return (
            PurePath(value).name
            if key in ("data", "votes", "out")
            else _ABSOLUTE.sub(lambda found: PurePath(found[0]).name, value)
        )
    return value
