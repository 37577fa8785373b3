"""What a training run is made of: a frozen dataclass, read from a TOML file and saved as JSON beside the weights."""

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
from facexp_train.classes import checked
from facexp_train.errors import DataError
from facexp_train.stored import read_facts

Task = Literal["keypoints", "emotion"]
Optimizer = Literal["sgd", "adam", "adamw", "muon"]
Schedule = Literal["cosine", "constant"]
Loss = Literal["distance", "mse"]
Dtype = Literal["float32", "mixed_bfloat16"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far training crops are changed. Zero switches a change off. "sd": standard deviation of a normal draw.

    flip, vertical_flip: chance of a reflection (left and right points change names).
    rotation: sd in degrees. scale: sd of the logarithm of the scale. shift: sd in parts of the crop's side.
    brightness: sd in parts of the full range. contrast, gamma: sd of the logarithm of the factor or exponent.
    noise: the largest sd of the pixel noise, in parts of the full range. blur: chance of a 3x3 smoothing.
    erasing: chance of a rectangle filled with a random gray, 2 to 20% of the area
    (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020).
    shrink: chance of a crop made smaller, to a third of its side at the least, and enlarged again, as a small face is.
    jpeg: chance of a JPEG compression of quality 20 to 90.
    mixup: chance that a batch is mixed with itself, with a Beta(0.4, 0.4) weight
    (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018); labels only, not points.
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
    """One training run.

    classes: what the network answers, in the order of its outputs; none named: all classes of the data. Faces of others
    are left out (emotion).
    loss: of the points, their mean distance over the inter-ocular distance, or the mean squared error of their
    coordinates in pixels (keypoints; the emotion's is cross-entropy).
    schedule: how the learning rate goes on after its warm-up, down to 0 along a cosine or as it is.
    network: keyword arguments of the task's network function, and `kind`, which of its functions (builders.BUILDERS).
    start_from: run directory whose best weights the training starts with, to go on with other data or settings.
    start_share: what the weights that the run started with weigh in those that are scored and kept, the rest being what
    an epoch made of them: a network that goes on from another often does best half way, and forgets less of what it
    could do (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    partial_share: the part of the faces that are labelled in part (keypoints) or not at all (emotion) that an epoch
    draws.
    repeat: how often an epoch shows the faces of a source, 1 where none is named; sources that the data does not have
    are passed over, so that one configuration serves all data (keypoints).
    leave_out: names of training faces whose labels are plainly wrong; names that the data does not have are passed over
    (keypoints).
    settle_epochs: the last so many epochs change their crops by `settled` instead of `augmentation`.
    aligned: chance that a face is cut as the runtime cuts it, by its keypoints, not as the data cuts it (emotion).
    unlabelled: keypoint data whose training faces are shown too, aligned; teachers say what is seen in them (emotion).
    Teachers that learn from teachers are shown them as well, unless their partial_share is 0.
    teachers: whole configurations of networks that are trained first, on the same data.
    teacher_share: what the mean of the teachers' probabilities or points weighs in a target, the rest being the label.
    A face or point without a label has the teachers' word alone.
    votes_share: what FER+'s votes weigh in a target of FER2013's labels, beside label and teachers: they tell how
    probable each label is (teaching.told_by_votes); passed over where there are none (emotion).
    teacher_views: how many views of a face the teachers' word is the mean of, computed once; 0: they are asked for the
    very crop that the network sees, each time (emotion alone).
    grow: start with the first teacher's weights, in a network of the same layers with more channels, or with fewer, the
    loudest of the teacher's, or in a mirrored one of its widths (emotion).
    five_weight: what the cross-entropy among the five classes of the product's five-class view adds to that among all;
    passed over where the data has no other classes beside these five (emotion).
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
    dtype: Dtype = "mixed_bfloat16"
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

    def changes(self, epoch: int) -> Augmentation:
        """How the crops of an epoch, counted from 0, are changed."""
        return self.settled if epoch >= self.epochs - self.settle_epochs else self.augmentation

    def to_json(self) -> str:
        """The configuration as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def with_data(self, data: str) -> TrainConfig:
        """The same configuration with other data; votes are then looked for beside it."""
        return dataclasses.replace(self, data=data, votes=None)

    def teacher(self, number: int) -> TrainConfig:
        """The configuration of a teacher, counted from 0, on this one's data; DataError where it is not valid."""
        common: dict[str, Any] = {"task": self.task, "data": self.data, "votes": self.votes, "classes": self.classes}
        if self.unlabelled and self.teachers[number].get("teachers"):
            common["unlabelled"] = self.unlabelled
        return TrainConfig.from_dict(self.teachers[number] | common, f"teachers[{number}]")

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str) -> TrainConfig:
        """Check the names and types of `values`; DataError names the key and `origin`, the file it came from."""
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
            raise DataError(f"{origin}: loss: the emotion task has no other than cross-entropy")
        if config.task == "keypoints" and config.teachers and not config.teacher_views:
            raise DataError(f"{origin}: teacher_views: teachers of points are asked once, so at least 1 is needed")
        if config.task == "keypoints" and (config.unlabelled or config.grow):
            raise DataError(f"{origin}: {'unlabelled' if config.unlabelled else 'grow'}: only the emotion task has it")
        if config.unlabelled and not config.teachers:
            raise DataError(f"{origin}: unlabelled: such faces need teachers")
        if config.grow and (not config.teachers or config.start_from):
            raise DataError(f"{origin}: grow: a network grows from its first teacher, and from nothing else")
        if config.start_share and not (config.grow or config.start_from):
            raise DataError(f"{origin}: start_share: needs weights to start with; set start_from, or grow")
        for number in range(len(config.teachers)):
            config.teacher(number)
        return config

    @classmethod
    def from_run(cls, run: Path) -> TrainConfig:
        """The configuration that a run directory was trained with."""
        path = run / "config.json"
        if not path.is_file():
            raise DataError(f"{run}: no config.json; expected the --out directory of `facexp train`")
        values = read_facts(path, "train that run again, into another --out")
        if values.get("task") == "emotion":
            # runs of the versions that did not write them
            values.setdefault("classes", list(SEVEN))
        return cls.from_dict(values, str(path))


_ANY = (0.0, sys.float_info.max, "0 or more, and finite")
_RANGES = {
    **dict.fromkeys(("epochs", "batch_size"), (1, sys.float_info.max, "1 or more")),
    # what numpy takes
    "seed": (0, 2**32 - 1, f"from 0 to {2**32 - 1}"),
    # an average that forgets nothing would never learn
    "ema": (0, math.nextafter(1, 0), "0 or more, and below 1"),
    **dict.fromkeys(
        (
            *("start_share", "teacher_share", "votes_share", "aligned", "partial_share", "label_smoothing"),
            *("flip", "vertical_flip", "blur", "erasing", "shrink", "jpeg", "mixup"),
        ),
        (0, 1, "between 0 and 1"),
    ),
}
"""Least and greatest value of a number, and both in words."""


def _checked(kind: type, values: dict[str, Any], origin: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise DataError(f"{origin.rstrip('.')} must be a table, got {values!r}")
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise DataError(f"{origin}{key} is unknown; expected one of {', '.join(hints)}")
        wanted = _wanted(hints[key], value)
        if not wanted and hints[key] in (int, float):
            least, most, words = _RANGES.get(key, _ANY)
            wanted = "" if least <= value <= most else words
        if wanted:
            raise DataError(f"{origin}{key} must be {wanted}, got {value!r}")
    for source, times in values.get("repeat", {}).items():
        if _wanted(int, times) or times < 0:
            raise DataError(f"{origin}repeat.{source} must be a whole number and not negative, got {times!r}")
    return values


def _wanted(hint: Any, value: object) -> str:
    """What a value of a type is, in words; "" where this is one."""
    kind, inside = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:
        return "" if value is None else _wanted(inside[0], value)
    if kind is Literal:
        return "" if value in inside else f"one of {', '.join(inside)}"
    if kind is list:
        good = isinstance(value, list) and not any(_wanted(inside[0], each) for each in value)
        return "" if good else f"a list of {'texts' if inside[0] is str else 'tables'}"
    if kind in (int, float):
        good = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        return "" if good else "a whole number" if kind is int else "a number"
    return "" if isinstance(value, kind) else {str: "a text", bool: "true or false", dict: "a table"}[kind]
