"""The 15 points of faces that are already framed, looked for twice, and how far the two looks disagree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facexp.bundle import KeypointsSpec
from facexp.geometry import Image, Matrix, Points, Square, align, compose, cut, interocular, square_matrix, transform
from facexp.session import Session


@dataclass(frozen=True, slots=True)
class Found:
    """The points of N faces."""

    placed: list[Matrix]
    """The (2, 3) matrices from image to crop of the second look."""
    points: NDArray[np.float32]
    """(N, 15, 2) in pixels of that crop."""
    drift: NDArray[np.float64]
    """(N,) mean distance of the first look's points from the second's, over the inter-ocular distance. What is no face
    gives other points in each frame."""


class KeypointFinder:
    """The keypoint network on one session."""

    def __init__(self, session: Session, spec: KeypointsSpec) -> None:
        self._session = session
        self._spec = spec

    @property
    def device(self) -> str:
        """Where the network really runs: "cpu" or "cuda"."""
        return self._session.device

    def find(self, grays: list[Image], placed: list[Matrix]) -> Found:
        """The points of N faces, for N gray images and (2, 3) matrices to crops as a detector or a guess frames them.

        The points of a first look put each face upright into the middle, and a second look is taken there: so the
        points depend little on the first frame, which in a video is another one each time. Where the network fails the
        points are those of an average face.
        """
        first = self._look(grays, placed)
        moves = [self._centring(points) for points in first]
        placed = [compose(move, matrix) for move, matrix in zip(moves, placed, strict=True)]
        second = self._look(grays, placed)
        moved = np.array([transform(points, move) for points, move in zip(first, moves, strict=True)])
        return Found(placed, second, self._drift(moved.reshape(second.shape), second))

    def find_in_crops(self, grays: list[Image]) -> Found:
        """As `find`, for gray images that one face each fills."""
        # what lies outside a crop that is not square is filled from its border, what lies outside the square is lost:
        # the mean side shares the damage, and the second look mends what it can
        squares = [Square((w - 1) / 2, (h - 1) / 2, float(np.sqrt(w * h))) for h, w in (gray.shape for gray in grays)]
        return self.find(grays, [square_matrix(square, self._spec.size) for square in squares])

    def _look(self, grays: list[Image], placed: list[Matrix]) -> NDArray[np.float32]:
        points = self._session.run(cut(grays, placed, self._spec.size))["keypoints"]
        failed = ~np.isfinite(points).all(axis=(1, 2))
        points[failed] = self._spec.mean_shape
        return points

    def _centring(self, points: Points) -> Matrix:
        """The similarity that puts a face upright into the middle of its crop; the identity where there is no face."""
        better = align(points, self._spec.mean_shape, zoom=1.0)
        return np.eye(2, 3) if better is None else better

    def _drift(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
        distance = np.linalg.norm(first - second, axis=2).mean(axis=1)
        # in full profile the eyes lie on each other
        return np.asarray(distance / np.maximum(interocular(second), self._spec.size / 8))
