"""Start a training run from a configuration, and load what a run left: the doors that the command line uses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from facexp_train import fit
from facexp_train.config import Task, TrainConfig, read_toml
from facexp_train.emotion import EmotionJob
from facexp_train.emotion_data import EmotionFaces, read_emotion
from facexp_train.errors import DataError
from facexp_train.evaluate import Evaluation, Predict
from facexp_train.keypoint_data import KeypointFaces, read_keypoints
from facexp_train.keypoints import KeypointJob
from facexp_train.report import draw_calibration, draw_confusion


def configure(
    task: Task, data: str, votes: str | None = None, file: Path | None = None, changes: Sequence[str] = ()
) -> TrainConfig:
    """The shipped model's configuration, or `file` (TOML), with changes such as "epochs=2" or "augmentation.flip=0".

    DataError names an unknown key or a value of the wrong kind.
    """
    shipped = Path(str(resources.files("facexp_train"))) / "configs" / f"{task}.toml"
    values = read_toml(file or shipped)
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
        place[last] = _parse(text.strip())
    values |= {"task": task, "data": data, "votes": votes}
    return TrainConfig.from_dict(values, str(file or f"configs/{task}.toml"))


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def read_faces(config: TrainConfig, quiet: bool = False) -> KeypointFaces | EmotionFaces:
    """The data of a configuration; DataError where it cannot be read."""
    if config.task == "keypoints":
        return read_keypoints(config.data, seed=config.seed, quiet=quiet)
    return read_emotion(config.data, config.votes, seed=config.seed, quiet=quiet)


def start(config: TrainConfig, out: Path, resume: bool = False, quiet: bool = False) -> Path:
    """Train into the directory `out`; returns the path of model.keras."""
    faces = read_faces(config, quiet)
    job = KeypointJob(faces, config) if isinstance(faces, KeypointFaces) else EmotionJob(faces, config)
    return fit.train(job, config, out, resume, quiet)


def load_predict(run: Path) -> Predict:
    """The trained model of a run as a function from crops to arrays by output name; DataError where it has none."""
    path = run / "model.keras"
    if not path.is_file():
        raise DataError(f"{run}: no model.keras; let `facexp train` end, or go on with --resume")
    model = keras.saving.load_model(path, compile=False, safe_mode=True)

    def predict(crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        outputs = model.predict(crops, batch_size=512, verbose=0)
        return outputs if isinstance(outputs, dict) else {model.output_names[0]: outputs}

    return predict


def temperatures(run: Path) -> dict[str, float] | None:
    """What the logits of a run's heads are divided by, None where its network has no temperatures."""
    path = run / "summary.json"
    found: dict[str, float] | None = json.loads(path.read_text()).get("temperatures") if path.is_file() else None
    return found


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """evaluation.json (figures of other splits stay) and a PNG for each confusion matrix and calibration curve."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "evaluation.json"
    measured = {f.split for f in evaluation.figures}
    stored = json.loads(path.read_text()) if path.is_file() else {"figures": [], "worst": {}}
    figures = [f for f in stored["figures"] if f["split"] not in measured]
    figures += [f.to_dict() for f in evaluation.figures]
    worst = stored["worst"] | ({evaluation.split: evaluation.worst} if evaluation.worst else {})
    text = json.dumps({"figures": figures, "worst": worst}, indent=1) + "\n"
    fit.write_atomically(path, text.encode())
    for confusion in evaluation.confusions:
        title = f"{confusion.name}, {evaluation.split}: share of the true class in %"
        draw_confusion(
            confusion.table, confusion.labels, out / f"confusion_{confusion.name}_{evaluation.split}.png", title
        )
    for labelling, curves in evaluation.calibrations.items():
        title = f"{labelling}, {evaluation.split}"
        draw_calibration(curves, out / f"calibration_{labelling}_{evaluation.split}.png", title)
