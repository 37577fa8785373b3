"""The framing of faces, as matrices: cutting crops, jittering them, and moving their points. Keras is not needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facexp.geometry import MIRROR, Square, square_matrix, warp
from facexp_train.config import Augmentation
from facexp_train.data.keypoint_data import KeypointFaces

Matrices = NDArray[np.float64]

SIZE = 96
"""Side of a keypoint crop in pixels."""
TEST_JITTER = Augmentation(flip=0, rotation=8, scale=0.08, shift=0.05)
"""Jitter of the framing of validation and test faces, like a detector's: standard deviations of normal draws."""
TEST_SEED = 2026


def square_matrices(squares: NDArray[np.float64], size: int) -> Matrices:
    """Return (N, 2, 3) matrices from canvas to crop pixels, for (N, 3) squares (centre x, centre y, side)."""
    return np.stack([square_matrix(Square(*map(float, square)), size) for square in squares])


def jitter_matrices(rng: np.random.Generator, count: int, size: int, augmentation: Augmentation) -> Matrices:
    """Draw (N, 2, 3) matrices from crop to jittered crop: reflection, rotation, scale and shift about its centre."""
    angle = np.deg2rad(augmentation.rotation) * rng.standard_normal(count)
    scale = np.exp(augmentation.scale * rng.standard_normal(count))
    shift = augmentation.shift * size * rng.standard_normal((count, 2))
    across = np.where(rng.random(count) < augmentation.flip, -1.0, 1.0)
    down = np.where(rng.random(count) < augmentation.vertical_flip, -1.0, 1.0)
    return about_centre(size, angle, scale, across, down, shift)


def about_centre(
    size: int,
    angle: NDArray[np.float64],
    scale: NDArray[np.float64],
    across: NDArray[np.float64],
    down: NDArray[np.float64],
    shift: NDArray[np.float64],
) -> Matrices:
    """Return (N, 2, 3) matrices that move the centre of a crop of `size` pixels only by `shift` (N, 2), in pixels.

    They reflect left to right where `across` (N,) is -1 and top to bottom where `down` is, else these are 1; then they
    rotate by `angle` in radians (clockwise, as y points down) and multiply by `scale`.
    """
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([np.stack([cos * across, -sin * down], -1), np.stack([sin * across, cos * down], -1)], axis=1)
    centre = (size - 1) / 2
    offset = centre + shift - linear @ np.full(2, centre)
    return np.concatenate([linear, offset[:, :, None]], axis=2)


def compose(outer: Matrices, inner: Matrices) -> Matrices:
    """Compose (N, 2, 3) matrices, `inner` first: the batched `facexp.geometry.compose`."""
    return np.concatenate(
        [outer[:, :, :2] @ inner[:, :, :2], outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]], axis=2
    )


def move_points(points: NDArray[np.float32], matrices: Matrices) -> NDArray[np.float32]:
    """Move (N, 15, 2) points by (N, 2, 3) matrices; a reflection exchanges the names of left and right points.

    Missing points (NaN) stay missing; their names are exchanged too.
    """
    moved = points @ np.swapaxes(matrices[:, :, :2], 1, 2) + matrices[:, None, :, 2]
    mirrored = np.linalg.det(matrices[:, :, :2]) < 0
    moved[mirrored] = moved[mirrored][:, list(MIRROR)]
    return moved.astype(np.float32)


def jittered_crops(faces: KeypointFaces, seed: int = TEST_SEED) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return uint8 crops (N, 96, 96, 1) with TEST_JITTER, and the points (N, 15, 2) in them (NaN if missing).

    They are cut as the runtime cuts them; a seed gives the same jitter.
    """
    jitter = jitter_matrices(np.random.default_rng(seed), len(faces), SIZE, TEST_JITTER)
    crops, points = _cut(faces, compose(jitter, square_matrices(faces.squares, SIZE)))
    return crops[..., None], points


def cut_squares(faces: KeypointFaces) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return uint8 crops (N, 96, 96) of the framing squares without jitter, and their points (NaN if missing)."""
    return _cut(faces, square_matrices(faces.squares, SIZE))


def _cut(faces: KeypointFaces, matrices: Matrices) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    crops = np.empty((len(matrices), SIZE, SIZE), np.uint8)
    for crop, image, matrix in zip(crops, faces.images, matrices, strict=True):
        crop[:] = warp(image, matrix, SIZE)
    return crops, move_points(faces.points, matrices)
