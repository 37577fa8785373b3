"""What the points of many faces have in common, and which faces stand apart."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facexp.geometry import KEYPOINTS, similarity, transform

Points = NDArray[np.float32]
_EYES = [KEYPOINTS.index("left_eye_center"), KEYPOINTS.index("right_eye_center")]
_MOUTH = [index for index, name in enumerate(KEYPOINTS) if name.startswith("mouth")]

_FEWEST = 40
"""Faces that a mean shape and its spread are made from, at the least."""
_TRIMMED = 0.05
"""The part of the faces, the farthest, from which the spread is not measured: they would hide themselves."""
_EXACT_PX = 0.5
"""How exact a label is, at 96 pixels: no spread is smaller."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Mean and spread of the points in the picture: float64 (15, 2) means, (15, 2, 2) covariances, NaN for a point that
    fewer than two faces have."""

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]


def known_points(points: Points) -> NDArray[np.bool_]:
    """(N, 15) bool: which of (N, 15, 2) points are labelled."""
    return np.asarray(np.isfinite(points).all(axis=2))


def mean_shape(points: Points) -> Shape:
    """The mean place of each of (N, 15, 2) points and its covariance, over the faces that have it."""
    values = points.astype(np.float64)
    with warnings.catch_warnings():
        # a point that no face has
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = np.nanmean(values, axis=0)
        away = values - mean
        spread = np.nanmean(away[..., :, None] * away[..., None, :], axis=0)
    spread[known_points(points).sum(axis=0) < 2] = np.nan
    return Shape(mean, spread)


def shape_distances(points: Points) -> NDArray[np.float64]:
    """(N,) how far the shape of each of (N, 15, 2) points lies from the mean shape; about 1 for a common face.

    Place, size and turn in the picture are taken out first (Procrustes). The distance is Mahalanobis', by the mean and
    covariance of the 95% that are nearest, over the root of the degrees of freedom, so that faces with few points
    compare. NaN where fewer than three points are known, everywhere where fewer than 40 faces have all points.
    """
    distances = np.full(len(points), np.nan)
    known = known_points(points)
    whole = known.all(axis=1)
    if whole.sum() < _FEWEST:
        return distances
    target = points[whole].mean(axis=0)
    for _ in range(2):
        aligned = _aligned(points, known, target)
        target = np.nanmean(aligned[whole], axis=0).astype(np.float32)
    vectors = aligned.reshape(len(points), -1).astype(np.float64)
    kept = whole & np.isfinite(vectors).all(axis=1)
    for trim in (_TRIMMED, 0.0):
        mean = vectors[kept].mean(axis=0)
        covariance = np.cov(vectors[kept].T) + _EXACT_PX**2 * np.eye(vectors.shape[1])
        distances = _mahalanobis(vectors, known, mean, covariance)
        kept &= distances <= np.nanquantile(distances[kept], 1 - trim)
    return distances


def _aligned(points: Points, known: NDArray[np.bool_], target: Points) -> Points:
    aligned = np.full_like(points, np.nan)
    for face, (row, there) in enumerate(zip(points, known, strict=True)):
        if there.sum() >= 3:
            try:
                aligned[face, there] = transform(row[there], similarity(row[there], target[there]))
            except ValueError:  # all points are one
                continue
    return aligned


def _mahalanobis(
    vectors: NDArray[np.float64],
    known: NDArray[np.bool_],
    mean: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> NDArray[np.float64]:
    distances = np.full(len(vectors), np.nan)
    patterns, which = np.unique(known, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if pattern.sum() < 3:
            continue
        chosen = np.repeat(pattern, 2)
        faces = np.flatnonzero(which.ravel() == number)
        away = vectors[np.ix_(faces, chosen)] - mean[chosen]
        squared = np.einsum("ni,ni->n", away @ np.linalg.inv(covariance[np.ix_(chosen, chosen)]), away)
        # the alignment took four degrees of freedom
        distances[faces] = np.sqrt(squared / (chosen.sum() - 4 or 1))
    return distances


def swapped_sides(points: Points) -> NDArray[np.bool_]:
    """(N,) bool: left and right stand the wrong way round in (N, 15, 2) points, whichever way up the face is.

    "left" is the person's left, which is right in an upright picture. False where eyes or mouth are not labelled, and
    for profiles, whose eyes lie on each other.
    """
    left, right = points[:, _EYES[0]], points[:, _EYES[1]]
    across, down = left - right, _mouth(points) - (left + right) / 2
    area = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    return np.asarray(area < -0.15 * (down**2).sum(axis=1))


def upside_down(points: Points) -> NDArray[np.bool_]:
    """(N,) bool: the mouth is above the eyes in (N, 15, 2) points; False where they are not labelled."""
    return np.asarray(_mouth(points)[:, 1] < points[:, _EYES, 1].mean(axis=1))


def _mouth(points: Points) -> Points:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(points[:, _MOUTH], axis=1), dtype=np.float32)


def strange_pictures(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N,) how badly the other pictures explain each of (N, S, S); 1 for a common one.

    What 20 principal components of all pictures leave of a 16x16 thumbnail of equal brightness and contrast (Turk and
    Pentland, "Eigenfaces for Recognition", 1991), over its median. NaN for flat pictures, everywhere below 400.
    """
    left = np.full(len(images), np.nan)
    small = np.array([cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA) for image in images], dtype=np.float32)
    small = small.reshape(len(images), -1)
    small -= small.mean(axis=1, keepdims=True)
    spread = small.std(axis=1)
    usable = spread > 1
    if usable.sum() < 400:
        return left
    values = small[usable] / spread[usable, None]
    values -= values.mean(axis=0)
    directions = np.linalg.eigh(values.T @ values)[1][:, -20:]
    values -= values @ directions @ directions.T
    lengths = np.linalg.norm(values, axis=1)
    left[usable] = lengths / np.median(lengths)
    return left
