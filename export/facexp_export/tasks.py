"""What an export needs to know about each of the two networks."""

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
"""A network's answers by the outputs' names."""
Say = Callable[[str], None]
"""Takes a line about what is being done."""

INPUT_NAME = "image"
"""The one input of every network: uint8 crops (batch, size, size, 1)."""


@dataclass(frozen=True, slots=True)
class Task:
    """One network: its crops, its outputs and what they mean."""

    name: str
    size: int
    """Side of the square input crop, in pixels."""
    kind: Kind
    outputs: tuple[str, ...]
    """Names that a trained model may give its outputs; it has at least one of them and no other. The runtime takes the
    first that is there."""
    shape: tuple[int, ...]
    """Shape of one output for one face."""
    labels: tuple[str, ...]

    def of(self, labels: Sequence[str]) -> Task:
        """The same task with the labels of a run or of a bundle."""
        return replace(self, labels=tuple(labels), shape=(len(labels), *self.shape[1:]))

    def file(self, key: str) -> str:
        """Name of a file of the network in a bundle: TASK.KEY, and TASK for the SavedModel's directory."""
        return self.name if key == SAVEDMODEL else f"{self.name}.{key}"


TASKS: dict[str, Task] = {
    "keypoints": Task("keypoints", 96, "points", ("keypoints",), (len(KEYPOINTS), 2), KEYPOINTS),
    "emotion": Task("emotion", 48, "logits", ("ferplus", "fer2013", "own"), (len(SEVEN),), SEVEN),
}
"""As the shipped networks are; a run or a bundle may have other labels: `Task.of`."""
