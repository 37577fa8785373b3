"""How faces are framed, as matrices: where crops are cut, jittered, and where their points go. Keras is not needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facexp.geometry import MIRROR, Square, square_matrix, warp
from facexp_train.config import Augmentation
from facexp_train.keypoint_data import KeypointFaces

Matrices = NDArray[np.float64]

SIZE = 96
TEST_JITTER = Augmentation(flip=0, rotation=8, scale=0.08, shift=0.05)
"""How far off the framing of a validation or test face is, as a detector's is: standard deviations of normal draws."""
TEST_SEED = 2026


def square_matrices(squares: NDArray[np.float64], size: int) -> Matrices:
    """(N, 3) squares (centre x, y, side) -> (N, 2, 3) matrices from canvas to crop pixels."""
    return np.stack([square_matrix(Square(*map(float, square)), size) for square in squares])


def jitter_matrices(rng: np.random.Generator, count: int, size: int, how: Augmentation) -> Matrices:
    """(N, 2, 3) matrices from the crop to the jittered crop: reflection, rotation, scale and shift about its centre."""
    angle = np.deg2rad(how.rotation) * rng.standard_normal(count)
    scale = np.exp(how.scale * rng.standard_normal(count))
    shift = how.shift * size * rng.standard_normal((count, 2))
    across = np.where(rng.random(count) < how.flip, -1.0, 1.0)
    down = np.where(rng.random(count) < how.vertical_flip, -1.0, 1.0)
    return about_centre(size, angle, scale, across, down, shift)


def about_centre(
    size: int,
    angle: NDArray[np.float64],
    scale: NDArray[np.float64],
    across: NDArray[np.float64],
    down: NDArray[np.float64],
    shift: NDArray[np.float64],
) -> Matrices:
    """(N, 2, 3) matrices that keep the centre of a crop of `size` pixels, but for the (N, 2) shift in pixels.

    Reflected where `across` or `down` is -1, then turned by `angle` in radians (clockwise, y points down) and scaled.
    """
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([np.stack([cos * across, -sin * down], -1), np.stack([sin * across, cos * down], -1)], axis=1)
    centre = (size - 1) / 2
    offset = centre + shift - linear @ np.full(2, centre)
    return np.concatenate([linear, offset[:, :, None]], axis=2)


def compose(outer: Matrices, inner: Matrices) -> Matrices:
    """Batched `facexp.geometry.compose`."""
    return np.concatenate(
        [outer[:, :, :2] @ inner[:, :, :2], outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]], axis=2
    )


def move_points(points: NDArray[np.float32], matrices: Matrices) -> NDArray[np.float32]:
    """(N, 15, 2) points through (N, 2, 3) matrices; a reflection changes the names of left and right points.

    Missing points (NaN) stay missing, and change names too.
    """
    moved = points @ np.swapaxes(matrices[:, :, :2], 1, 2) + matrices[:, None, :, 2]
    mirrored = np.linalg.det(matrices[:, :, :2]) < 0
    moved[mirrored] = moved[mirrored][:, list(MIRROR)]
    return moved.astype(np.float32)


def jittered_crops(
    faces: KeypointFaces, how: Augmentation = TEST_JITTER, seed: int = TEST_SEED
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """uint8 crops (N, 96, 96, 1) as the runtime cuts them, and the points (N, 15, 2) in them (NaN where missing)."""
    rng = np.random.default_rng(seed)
    jitter = jitter_matrices(rng, len(faces.images), SIZE, how)
    crops, points = _cut(faces, compose(jitter, square_matrices(faces.squares, SIZE)))
    return crops[..., None], points


def cut_squares(faces: KeypointFaces) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """uint8 crops (N, 96, 96) of the framing squares as they are, and the points (N, 15, 2) in them (NaN: missing)."""
    return _cut(faces, square_matrices(faces.squares, SIZE))


def _cut(faces: KeypointFaces, matrices: Matrices) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    crops = np.empty((len(matrices), SIZE, SIZE), np.uint8)
    for crop, image, matrix in zip(crops, faces.images, matrices, strict=True):
        crop[:] = warp(image, matrix, SIZE)
    return crops, move_points(faces.points, matrices)
