"""The 15 points of faces that are already framed, and the similarity that lays them onto an average face's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facexp.bundle import KeypointsSpec
from facexp.geometry import Image, Matrix, Points, Square, align, compose, cut, square_matrix
from facexp.session import Session


class KeypointFinder:
    """The keypoint network on one session."""

    def __init__(self, session: Session, spec: KeypointsSpec) -> None:
        self._session = session
        self._spec = spec

    @property
    def device(self) -> str:
        """Where the network really runs: "cpu" or "cuda"."""
        return self._session.device

    def find(self, grays: list[Image], placed: list[Matrix]) -> NDArray[np.float32]:
        """float32 (N, 15, 2) points in crop pixels, for N gray images and their (2, 3) matrices from image to crop.

        Where the network fails they are the points of an average face.
        """
        points = self._session.run(cut(grays, placed, self._spec.size))["keypoints"]
        failed = ~np.isfinite(points).all(axis=(1, 2))
        points[failed] = self._spec.mean_shape
        return points

    def find_in_crops(self, grays: list[Image]) -> tuple[list[Matrix], NDArray[np.float32]]:
        """The frames, (2, 3) matrices, and the points in them, for gray images that one face each fills.

        A crop's frame is only a guess: the points of a first look give a better one, in which the second look is taken.
        """
        # what lies outside a crop that is not square is filled from its border, what lies outside the square is lost:
        # the mean side shares the damage, and the second look mends what it can
        squares = [Square((w - 1) / 2, (h - 1) / 2, float(np.sqrt(w * h))) for h, w in (gray.shape for gray in grays)]
        placed = [square_matrix(square, self._spec.size) for square in squares]
        points = self.find(grays, placed)
        placed = [self._reframe(matrix, found) for matrix, found in zip(placed, points, strict=True)]
        return placed, self.find(grays, placed)

    def _reframe(self, matrix: Matrix, points: Points) -> Matrix:
        better = align(points, self._spec.mean_shape, zoom=1.0)
        return matrix if better is None else compose(better, matrix)
