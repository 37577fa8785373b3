"""The configuration of a training run: a frozen dataclass, read from TOML and saved as JSON next to the weights."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from facexp.labels import SEVEN
from facexp_train.data.classes import checked
from facexp_train.errors import DataError
from facexp_train.stored import read_facts

Task = Literal["keypoints", "emotion"]
Optimizer = Literal["sgd", "adam", "adamw", "muon"]
Schedule = Literal["cosine", "constant"]
Loss = Literal["distance", "mse"]
Dtype = Literal["auto", "float32", "mixed_bfloat16"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much training crops are changed. Zero switches a change off. "sd" is the standard deviation of a normal draw.

    flip, vertical_flip: probability of a reflection (left and right points exchange names).
    rotation: sd in degrees. scale: sd of the logarithm of the scale. shift: sd as a fraction of the crop's side.
    brightness: sd as a fraction of the full range. contrast, gamma: sd of the logarithm of the factor or exponent.
    noise: largest sd of the pixel noise, as a fraction of the full range. blur: probability of a 3x3 smoothing.
    erasing: probability of a rectangle filled with a random gray, 2 to 20% of the area
    (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020).
    shrink: probability that a crop is reduced, to no less than a third of its side, and enlarged again, like the crop
    of a small face.
    jpeg: probability of a JPEG compression with a quality of 20 to 90.
    mixup: probability that a batch is mixed with a shuffled copy of itself, with a weight from Beta(0.4, 0.4)
    (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018); emotion only.
    """

    flip: float = 0.5
    vertical_flip: float = 0.0
    rotation: float = 8.0
    scale: float = 0.08
    shift: float = 0.04
    brightness: float = 0.1
    contrast: float = 0.2
    gamma: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    erasing: float = 0.5
    shrink: float = 0.0
    jpeg: float = 0.0
    mixup: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The settings of one training run.

    classes: the classes that the network distinguishes, in the order of its outputs; if empty, all classes of the data.
    Faces of other classes are left out (emotion).
    loss: mean distance of the points over the inter-ocular distance, or mean squared error of their coordinates in
    pixels (keypoints; the emotion task uses cross-entropy).
    schedule: the learning rate after the warm-up: decreasing to 0 along a cosine, or constant.
    network: keyword arguments of the task's network function, and `kind`, which selects it (builders.BUILDERS).
    start_from: run directory with the best weights to start from, to continue with other data or settings.
    start_share: weight of the starting weights in the mean with the trained weights that is scored and kept. The mean
    of both is often better than either, and keeps more of what the network could do before
    (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    partial_share: the share of the partly labelled faces (keypoints) or unlabelled faces (emotion) that each epoch
    draws.
    repeat: how often an epoch shows the faces of a source, by source, 1 by default; sources that the data does not have
    are ignored, so that one configuration serves all data (keypoints).
    leave_out: names of training faces whose labels are clearly wrong; names that the data does not have are ignored
    (keypoints).
    dtype: the numbers that the network computes with; its weights are float32 in any case. "auto" is bfloat16, or
    float32 where bfloat16 is slow; the run writes its choice into its config.json (fitting.precision).
    settle_epochs: number of last epochs that change their crops by `settled` instead of `augmentation`.
    aligned: probability that a face is cropped as the runtime crops it, by its keypoints, instead of as the data crops
    it (emotion).
    unlabelled: keypoint data; its training faces are used too, aligned, with the teachers' answers as targets
    (emotion). Teachers that have teachers themselves get these faces as well, unless their partial_share is 0.
    teachers: complete configurations of networks that are trained first, on the same data.
    teacher_share: weight of the teachers' mean probabilities or points in a target; the rest is the label. Without a
    label the target of a face or point is the teachers' mean alone.
    votes_share: weight, in a target of FER2013's labels, of the label probabilities that FER+'s votes predict
    (teaching.label_probabilities_from_votes); the rest is the mean of label and teachers. Ignored without votes
    (emotion).
    teacher_views: number of views of a face over which the teachers' answers are averaged, once, before training; 0
    means that they answer every crop that the network sees, during training (emotion only).
    grow: start with the first teacher's weights. The network has the same layers, with more channels, with fewer (those
    of the teacher with the largest scales are kept), or is mirrored and has the same widths (emotion).
    five_weight: weight of the cross-entropy among the classes of the five-class view, which is added to that among all
    classes; ignored if the data has no classes besides these five (emotion).
    """

    task: Task
    data: str
    votes: str | None = None
    classes: list[str] = field(default_factory=list)
    start_from: str | None = None
    start_share: float = 0.0
    seed: int = 0
    epochs: int = 60
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.1
    schedule: Schedule = "cosine"
    loss: Loss = "distance"
    warmup_epochs: float = 1.0
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    partial_share: float = 1.0
    repeat: dict[str, int] = field(default_factory=dict)
    leave_out: list[str] = field(default_factory=list)
    ema: float = 0.998
    patience: int = 20
    dtype: Dtype = "auto"
    augmentation: Augmentation = field(default_factory=Augmentation)
    settle_epochs: int = 0
    settled: Augmentation = field(default_factory=Augmentation)
    network: dict[str, Any] = field(default_factory=dict)
    aligned: float = 0.0
    unlabelled: str | None = None
    teachers: list[dict[str, Any]] = field(default_factory=list)
    teacher_share: float = 0.6
    votes_share: float = 0.0
    teacher_views: int = 0
    grow: bool = False
    five_weight: float = 0.0

    def augmentation_of(self, epoch: int) -> Augmentation:
        """Return the augmentation of an epoch, counted from 0."""
        return self.settled if epoch >= self.epochs - self.settle_epochs else self.augmentation

    def to_json(self) -> str:
        """Return the configuration as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def with_data(self, data: str) -> TrainConfig:
        """Return the same configuration with other data; votes are then searched for next to that data."""
        return dataclasses.replace(self, data=data, votes=None)

    def teacher(self, number: int) -> TrainConfig:
        """Return the configuration of a teacher, counted from 0, with this one's data; DataError if it is invalid."""
        common: dict[str, Any] = {"task": self.task, "data": self.data, "votes": self.votes, "classes": self.classes}
        if self.unlabelled and self.teachers[number].get("teachers"):
            common["unlabelled"] = self.unlabelled
        return TrainConfig.from_dict(self.teachers[number] | common, f"teachers[{number}]")

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str) -> TrainConfig:
        """Make a configuration of checked `values`; DataError names the key and `origin`, the file they came from."""
        values = dict(values)
        if values.get("classes"):
            values["classes"] = list(checked(values["classes"], f"{origin}: classes"))
        augmentation = _checked(Augmentation, values.pop("augmentation", {}), f"{origin}: augmentation.")
        settled = _checked(Augmentation, values.pop("settled", {}), f"{origin}: settled.")
        if missing := [name for name in ("task", "data") if name not in values]:
            raise DataError(f"{origin}: {missing[0]} is missing; did `facexp train` write this?")
        config = cls(
            **_checked(cls, values, f"{origin}: "),
            augmentation=Augmentation(**augmentation),
            settled=Augmentation(**settled),
        )
        if config.classes and config.task != "emotion":
            raise DataError(f"{origin}: classes: only the emotion task has them")
        if config.loss != "distance" and config.task != "keypoints":
            raise DataError(f"{origin}: loss: the emotion task always uses cross-entropy")
        if config.task == "keypoints" and config.teachers and not config.teacher_views:
            raise DataError(f"{origin}: teacher_views: must be 1 or more: keypoint teachers answer before training")
        if config.task == "keypoints" and (config.unlabelled or config.grow):
            raise DataError(f"{origin}: {'unlabelled' if config.unlabelled else 'grow'}: only the emotion task has it")
        if config.unlabelled and not config.teachers:
            raise DataError(f"{origin}: unlabelled: faces without labels need teachers")
        if config.grow and (not config.teachers or config.start_from):
            raise DataError(f"{origin}: grow: a network grows from its first teacher; set teachers, and no start_from")
        if config.start_share and not (config.grow or config.start_from):
            raise DataError(f"{origin}: start_share: needs weights to start with; set start_from, or grow")
        for number in range(len(config.teachers)):
            config.teacher(number)
        return config

    @classmethod
    def from_run(cls, run: Path) -> TrainConfig:
        """Return the configuration that a run directory was trained with; DataError if it cannot be read."""
        path = run / "config.json"
        if not path.is_file():
            raise DataError(f"{run}: no config.json; expected the --out directory of `facexp train`")
        values = read_facts(path, "train that run again, into another --out")
        if values.get("task") == "emotion":
            # older versions did not write the classes
            values.setdefault("classes", list(SEVEN))
        return cls.from_dict(values, str(path))


_NOT_NEGATIVE = (0.0, sys.float_info.max, "0 or more, and finite")
_RANGES = {
    **dict.fromkeys(("epochs", "batch_size"), (1, sys.float_info.max, "1 or more")),
    # the range of numpy's seeds
    "seed": (0, 2**32 - 1, f"from 0 to {2**32 - 1}"),
    # at 1 the moving average would never leave the initial weights
    "ema": (0, math.nextafter(1, 0), "0 or more, and below 1"),
    **dict.fromkeys(
        (
            *("start_share", "teacher_share", "votes_share", "aligned", "partial_share", "label_smoothing"),
            *("flip", "vertical_flip", "blur", "erasing", "shrink", "jpeg", "mixup"),
        ),
        (0, 1, "between 0 and 1"),
    ),
}
"""By setting: the least and the greatest value, and the range in words."""


def _checked(kind: type, values: dict[str, Any], origin: str) -> dict[str, Any]:
    """Return `values` if they are names, types and ranges of the dataclass `kind`, else raise DataError."""
    if not isinstance(values, dict):
        raise DataError(f"{origin.rstrip('.')} must be a table, got {values!r}")
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise DataError(f"{origin}{key} is unknown; expected one of {', '.join(hints)}")
        expected = _expected(hints[key], value)
        if not expected and hints[key] in (int, float):
            least, most, words = _RANGES.get(key, _NOT_NEGATIVE)
            expected = "" if least <= value <= most else words
        if expected:
            raise DataError(f"{origin}{key} must be {expected}, got {value!r}")
    for source, times in values.get("repeat", {}).items():
        if _expected(int, times) or times < 0:
            raise DataError(f"{origin}repeat.{source} must be a whole number and not negative, got {times!r}")
    return values


def _expected(hint: Any, value: object) -> str:
    """Return "" if `value` has the type of `hint`, else that type in words."""
    kind, inside = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:
        return "" if value is None else _expected(inside[0], value)
    if kind is Literal:
        return "" if value in inside else f"one of {', '.join(inside)}"
    if kind is list:
        good = isinstance(value, list) and not any(_expected(inside[0], each) for each in value)
        return "" if good else f"a list of {'strings' if inside[0] is str else 'tables'}"
    if kind in (int, float):
        good = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        return "" if good else "a whole number" if kind is int else "a number"
    return "" if isinstance(value, kind) else {str: "a string", bool: "true or false", dict: "a table"}[kind]
