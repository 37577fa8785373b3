"""The mean shape of the keypoints of many faces, and the faces that are outliers in shape or in their pixels."""

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

_MIN_FACES = 40
"""The smallest number of complete faces from which a mean shape and its covariance are computed."""
_TRIMMED = 0.05
"""The share of faces, the most distant, that the covariance leaves out: outliers would increase it and hide in it."""
_LABEL_SD_PX = 0.5
"""Standard deviation of a label's inaccuracy, in pixels of a 96-pixel crop; added to the covariance as its minimum."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Mean and covariance of the points' positions: float64 (15, 2) and (15, 2, 2), in pixels of the points.

    The mean of a point that no face has is NaN, and so is the covariance of a point that fewer than two faces have.
    """

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]


def known_points(points: Points) -> NDArray[np.bool_]:
    """(N, 15) bool: which of (N, 15, 2) points are labelled."""
    return np.asarray(np.isfinite(points).all(axis=2))


def mean_shape(points: Points) -> Shape:
    """The mean position and the covariance of each point of (N, 15, 2), over the faces that have it."""
    values = points.astype(np.float64)
    with warnings.catch_warnings():
        # numpy warns of an empty mean for a point that no face has
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = np.nanmean(values, axis=0)
        away = values - mean
        spread = np.nanmean(away[..., :, None] * away[..., None, :], axis=0)
    spread[known_points(points).sum(axis=0) < 2] = np.nan
    return Shape(mean, spread)


def shape_distances(points: Points) -> NDArray[np.float64]:
    """(N,) float64: the distance of each face's points (N, 15, 2) from the mean shape; about 1 for a typical face.

    Position, scale and rotation in the picture are removed first (Procrustes alignment). The distance is the
    Mahalanobis distance, with mean and covariance of the nearest 95% of the faces, over the square root of the degrees
    of freedom, so that faces with few points are comparable. It is NaN for a face with fewer than three points, and for
    all faces if fewer than 40 have all points.
    """
    distances = np.full(len(points), np.nan)
    known = known_points(points)
    complete = known.all(axis=1)
    if complete.sum() < _MIN_FACES:
        return distances
    target = points[complete].mean(axis=0)
    for _ in range(2):
        aligned = _aligned(points, known, target)
        target = np.nanmean(aligned[complete], axis=0).astype(np.float32)
    vectors = aligned.reshape(len(points), -1).astype(np.float64)
    kept = complete & np.isfinite(vectors).all(axis=1)
    for trim in (_TRIMMED, 0.0):
        mean = vectors[kept].mean(axis=0)
        covariance = np.cov(vectors[kept].T) + _LABEL_SD_PX**2 * np.eye(vectors.shape[1])
        distances = _mahalanobis(vectors, known, mean, covariance)
        kept &= distances <= np.nanquantile(distances[kept], 1 - trim)
    return distances


def _aligned(points: Points, known: NDArray[np.bool_], target: Points) -> Points:
    aligned = np.full_like(points, np.nan)
    for face, (row, labelled) in enumerate(zip(points, known, strict=True)):
        if labelled.sum() >= 3:
            try:
                aligned[face, labelled] = transform(row[labelled], similarity(row[labelled], target[labelled]))
            except ValueError:  # all points coincide
                continue
    return aligned


def _mahalanobis(
    vectors: NDArray[np.float64],
    known: NDArray[np.bool_],
    mean: NDArray[np.float64],
    covariance: NDArray[np.float64],
) -> NDArray[np.float64]:
    distances = np.full(len(vectors), np.nan)
    # faces with the same set of labelled points share an inverse covariance
    patterns, which = np.unique(known, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if pattern.sum() < 3:
            continue
        chosen = np.repeat(pattern, 2)
        faces = np.flatnonzero(which.ravel() == number)
        away = vectors[np.ix_(faces, chosen)] - mean[chosen]
        squared = np.einsum("ni,ni->n", away @ np.linalg.inv(covariance[np.ix_(chosen, chosen)]), away)
        # the similarity transform of the alignment takes four degrees of freedom
        distances[faces] = np.sqrt(squared / (chosen.sum() - 4 or 1))
    return distances


def swapped_sides(points: Points) -> NDArray[np.bool_]:
    """(N,) bool: True if left and right are swapped in (N, 15, 2) points, whichever way up the face is.

    "left" is the person's left, which is on the right in an upright picture. False if eyes or mouth are not labelled,
    and for profiles, where the two eyes nearly coincide.
    """
    left, right = points[:, _EYES[0]], points[:, _EYES[1]]
    across, down = left - right, _mouth(points) - (left + right) / 2
    area = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    return np.asarray(area < -0.15 * (down**2).sum(axis=1))


def upside_down(points: Points) -> NDArray[np.bool_]:
    """(N,) bool: True if the mouth is above the eyes in (N, 15, 2) points; False if they are not labelled."""
    return np.asarray(_mouth(points)[:, 1] < points[:, _EYES, 1].mean(axis=1))


def _mouth(points: Points) -> Points:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(points[:, _MOUTH], axis=1), dtype=np.float32)


def strange_pictures(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N,) float64: how badly the other pictures explain each of (N, S, S) uint8 pictures; 1 for the median one.

    Each picture is reduced to a 16x16 thumbnail of normalised brightness and contrast. The value is the length of the
    residual after projection on the first 20 principal components of all thumbnails (Turk and Pentland, "Eigenfaces for
    Recognition", 1991), over the median of these lengths. NaN for flat pictures, and for all if fewer than 400 are not
    flat.
    """
    residuals = np.full(len(images), np.nan)
    small = np.array([cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA) for image in images], dtype=np.float32)
    small = small.reshape(len(images), -1)
    small -= small.mean(axis=1, keepdims=True)
    spread = small.std(axis=1)
    usable = spread > 1
    if usable.sum() < 400:
        return residuals
    values = small[usable] / spread[usable, None]
    values -= values.mean(axis=0)
    directions = np.linalg.eigh(values.T @ values)[1][:, -20:]
    values -= values @ directions @ directions.T
    lengths = np.linalg.norm(values, axis=1)
    residuals[usable] = lengths / np.median(lengths)
    return residuals
