"""The 15 keypoints of faces, found in two passes of the network, and how far the two passes disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facexp.bundle import KeypointsSpec
from facexp.geometry import (
    Image,
    Matrix,
    Points,
    Square,
    align,
    compose,
    cut,
    interocular,
    invert,
    square_matrix,
    transform,
    zoom_of,
)
from facexp.session import Session

# 99.5% of the validation faces with a detector score of 0.9 or more have a smaller drift, but only about one in six of
# the false positives at scores of 0.3 to 0.7, and none of the false positives in the sample photos
MAX_DRIFT = 0.05
"""The largest drift of a face. More means that it is no face, or one whose points are unreliable (a profile)."""


@dataclass(frozen=True, slots=True)
class FoundKeypoints:
    """The keypoints of N faces."""

    matrices: list[Matrix]
    """N (2, 3) matrices from the image to the crop of the last pass."""
    points: NDArray[np.float32]
    """(N, 15, 2) in pixels of that crop."""
    drift: NDArray[np.float64]
    """(N,) mean distance between the points of the last two passes, over the inter-ocular distance, or over an eighth
    of the crop's side where that is larger. For something that is not a face the points change from pass to pass."""

    def rows(self, chosen: Sequence[int] | NDArray[np.intp]) -> FoundKeypoints:
        """The keypoints of the faces with these indices."""
        return FoundKeypoints(
            [self.matrices[row] for row in chosen], self.points[list(chosen)], self.drift[list(chosen)]
        )


class KeypointFinder:
    """The keypoint network, run in one session."""

    def __init__(self, session: Session, spec: KeypointsSpec) -> None:
        self.session = session
        self._spec = spec

    def find(self, grays: list[Image], matrices: list[Matrix]) -> FoundKeypoints:
        """Find the points of N faces, given N gray images and N (2, 3) matrices from image to crop.

        The matrices come from a detector's box or a guess. The points of a first pass serve to cut the crops again,
        with each face upright and centred, for a second pass. So the points depend little on the first framing, which
        in a video differs from frame to frame. Where the network's output is not finite, the points are those of the
        mean face.
        """
        return self._refine(grays, matrices, self._predict(grays, matrices))

    def follow(self, gray: Image, last: FoundKeypoints) -> FoundKeypoints:
        """Find the points of faces in the frame that follows the one where they were last found.

        The last frame's points replace the first pass, so one pass is enough, and its drift shows whether the face is
        still there. Where the drift is above MAX_DRIFT, as when a head has moved far, a second pass follows.
        """
        found = self._refine([gray] * len(last.matrices), last.matrices, last.points)
        moved = np.flatnonzero(found.drift > MAX_DRIFT)
        if not len(moved):
            return found
        refined = self._refine([gray] * len(moved), [found.matrices[row] for row in moved], found.points[moved])
        for row, matrix in zip(moved, refined.matrices, strict=True):
            found.matrices[row] = matrix
        found.points[moved], found.drift[moved] = refined.points, refined.drift
        return found

    def face_square(self, matrix: Matrix, points: Points) -> Square:
        """The square, as in training, round a face, in pixels of the image.

        `points` are the face's (15, 2) points in the crop that the (2, 3) matrix from image to crop describes.
        """
        centred = compose(self._centring(points), matrix)
        half = (self._spec.size - 1) / 2
        x, y = transform(np.array([half, half], np.float32), invert(centred)).tolist()
        return Square(x, y, self._spec.size / zoom_of(centred))

    def find_in_crops(self, grays: list[Image]) -> FoundKeypoints:
        """As `find`, for gray images that are each filled by one face."""
        # A crop that is not square loses what lies outside the square, and its border is replicated where the square
        # extends beyond it. A square of the crop's mean side balances both errors; the second pass corrects the rest
        # as far as it can.
        squares = [Square((w - 1) / 2, (h - 1) / 2, float(np.sqrt(w * h))) for h, w in (gray.shape for gray in grays)]
        return self.find(grays, [square_matrix(square, self._spec.size) for square in squares])

    def _refine(self, grays: list[Image], matrices: list[Matrix], points: NDArray[np.float32]) -> FoundKeypoints:
        """Run the network again, on crops in which these (N, 15, 2) points put each face upright and centred."""
        moves = [self._centring(each) for each in points]
        matrices = [compose(move, matrix) for move, matrix in zip(moves, matrices, strict=True)]
        refined = self._predict(grays, matrices)
        moved = np.array([transform(each, move) for each, move in zip(points, moves, strict=True)])
        return FoundKeypoints(matrices, refined, self._drift(moved.reshape(refined.shape), refined))

    def _predict(self, grays: list[Image], matrices: list[Matrix]) -> NDArray[np.float32]:
        """Run the network once; (N, 15, 2) points in pixels of the crops."""
        points = self.session.run(cut(grays, matrices, self._spec.size))["keypoints"]
        failed = ~np.isfinite(points).all(axis=(1, 2))
        points[failed] = self._spec.mean_shape
        return points

    def _centring(self, points: Points) -> Matrix:
        """The similarity transform that centres a face upright in its crop; the identity if the points fit no face."""
        matrix = align(points, self._spec.mean_shape, zoom=1.0)
        return np.eye(2, 3) if matrix is None else matrix

    def _drift(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
        distance = np.linalg.norm(first - second, axis=2).mean(axis=1)
        # in full profile the eyes coincide
        return np.asarray(distance / np.maximum(interocular(second), self._spec.size / 8))
