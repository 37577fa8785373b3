"""The changes that make more faces out of a face: what `facexp augment` writes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facexp.geometry import warp
from facexp_train.framing import Matrices, about_centre, move_points

CHANGES: tuple[str, ...] = ("flip", "vertical-flip", "brighter", "darker", "rotated", "scaled")
"""Left and right exchanged; up and down; 1.2 to 1.6 times as bright; 0.4 to 0.8 times; turned by 5 to 20 degrees either
way; 0.8 to 0.92 or 1.08 to 1.25 times as large."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of N faces: float64 matrices (N, 2, 3) about the picture's centre, and factors (N,) of the pixels."""

    name: str
    matrices: Matrices
    light: NDArray[np.float64]

    def image(self, image: NDArray[np.uint8], face: int) -> NDArray[np.uint8]:
        """The changed copy of the (S, S) picture of one of the faces; what was outside is filled from the border."""
        size = image.shape[0]
        if not np.array_equal(self.matrices[face], np.eye(2, 3)):
            image = warp(image, self.matrices[face], size)
        if self.light[face] != 1:
            image = np.clip(np.rint(image * self.light[face]), 0, 255).astype(np.uint8)
        return image

    def points(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 15, 2) points where they are in the changed copies; a reflection changes the names of left and right."""
        return move_points(points, self.matrices)


def draw_change(name: str, count: int, size: int, seed: int) -> Change:
    """The change of that name for `count` faces of `size` pixels, the same for a seed whatever else is drawn."""
    rng = np.random.default_rng([seed, CHANGES.index(name)])
    one = np.ones(count)
    angle, scale, light = np.zeros(count), one, one
    sign = rng.choice([-1.0, 1.0], count)
    if name == "rotated":
        angle = np.deg2rad(rng.uniform(5, 20, count)) * sign
    elif name == "scaled":
        scale = rng.uniform(1.08, 1.25, count) ** sign
    elif name == "brighter":
        light = rng.uniform(1.2, 1.6, count)
    elif name == "darker":
        light = rng.uniform(0.4, 0.8, count)
    across = -one if name == "flip" else one
    down = -one if name == "vertical-flip" else one
    return Change(name, about_centre(size, angle, scale, across, down, np.zeros((count, 2))), light)
