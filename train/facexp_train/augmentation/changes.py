"""The changes of a face that `facexp augment` writes copies of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facexp.geometry import warp
from facexp_train.augmentation.framing import Matrices, about_centre, move_points

CHANGES: tuple[str, ...] = ("flip", "vertical-flip", "brighter", "darker", "rotated", "scaled")
"""In order: mirrored left to right; mirrored top to bottom; 1.2 to 1.6 times as bright; 0.4 to 0.8 times as bright;
rotated by 5 to 20 degrees in either direction; scaled by 0.8 to 0.93 or by 1.08 to 1.25."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of N faces: matrices (N, 2, 3) about the picture's centre, and brightness factors (N,), in float64."""

    name: str
    matrices: Matrices
    light: NDArray[np.float64]

    def image(self, image: NDArray[np.uint8], face: int) -> NDArray[np.uint8]:
        """Return the changed copy of the (S, S) picture of the face with index `face`; the border is replicated."""
        size = image.shape[0]
        if not np.array_equal(self.matrices[face], np.eye(2, 3)):
            image = warp(image, self.matrices[face], size)
        if self.light[face] != 1:
            image = np.clip(np.rint(image * self.light[face]), 0, 255).astype(np.uint8)
        return image

    def points(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (N, 15, 2) points in the changed copies; a reflection exchanges the names of left and right points."""
        return move_points(points, self.matrices)


def draw_change(name: str, count: int, size: int, seed: int) -> Change:
    """Draw the change `name`, one of CHANGES, for `count` faces of `size` pixels.

    A seed gives the same change, whatever other changes are drawn.
    """
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
