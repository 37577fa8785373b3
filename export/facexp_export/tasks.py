"""Inputs, outputs and labels of the two networks, as the export needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facexp.bundle import SAVEDMODEL
from facexp.geometry import KEYPOINTS
from facexp.labels import SEVEN

Kind = Literal["points", "logits"]
"""Points are coordinates in pixels of the crop; logits go through a softmax over their last axis."""

Outputs = Mapping[str, NDArray[np.float32]]
"""A network's outputs, float32 (N, ...) arrays, by name."""
ProgressCallback = Callable[[str], None]
"""Progress callback: receives one line of text about what is being done."""

INPUT_NAME = "image"
"""Name of the only input of each network: uint8 crops (batch, size, size, 1)."""


@dataclass(frozen=True, slots=True)
class Task:
    """The input size, outputs and labels of one network."""

    name: str
    size: int
    """Side of the square input crop, in pixels."""
    kind: Kind
    outputs: tuple[str, ...]
    """Names allowed for the outputs of a trained model, which has one or more of them and no others. The runtime uses
    the first one that the model has."""
    shape: tuple[int, ...]
    """Shape of one output for one face."""
    labels: tuple[str, ...]
    """Names of the keypoints or of the emotion classes, in the order of the output's first axis."""

    def with_labels(self, labels: Sequence[str]) -> Task:
        """Return the task with the labels of a run or bundle, and its output shape adapted to their number."""
        return replace(self, labels=tuple(labels), shape=(len(labels), *self.shape[1:]))

    def file(self, key: str) -> str:
        """Return the name of a file of this network in a bundle: TASK.KEY, or TASK for the SavedModel's directory."""
        return self.name if key == SAVEDMODEL else f"{self.name}.{key}"


TASKS: dict[str, Task] = {
    "keypoints": Task("keypoints", 96, "points", ("keypoints",), (len(KEYPOINTS), 2), KEYPOINTS),
    "emotion": Task("emotion", 48, "logits", ("ferplus", "fer2013", "own"), (len(SEVEN),), SEVEN),
}
"""The tasks with the labels of the shipped networks; for a run or bundle with other labels use `Task.with_labels`."""
