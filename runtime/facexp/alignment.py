"""Place the emotion network's crop: a face's keypoints are aligned with those of an average face."""

from __future__ import annotations

from dataclasses import dataclass

from facexp.bundle import EmotionSpec, KeypointsSpec
from facexp.geometry import ALIGNMENT, Matrix, Points, align, compose, similarity, zoom_of
from facexp.keypoints import FoundKeypoints


@dataclass(frozen=True, slots=True)
class Alignment:
    """Computes the emotion network's crops from the keypoint network's points."""

    template: Points
    """(15, 2) keypoints of an average face, in pixels of the emotion crop."""
    average: Matrix
    """(2, 3) matrix from keypoint crop to emotion crop for an average face: used for faces whose own points cannot be
    aligned."""

    @classmethod
    def of(cls, keypoints: KeypointsSpec, emotion: EmotionSpec) -> Alignment:
        """Return the alignment for which a bundle's two networks were trained."""
        rows = list(ALIGNMENT)
        return cls(emotion.template, similarity(keypoints.mean_shape[rows], emotion.template[rows]))

    def matrices(self, found: FoundKeypoints) -> list[Matrix]:
        """Return the (2, 3) matrices from image to emotion crop, one per face."""
        zoom = zoom_of(self.average)
        matrices = []
        for matrix, points in zip(found.matrices, found.points, strict=True):
            onto_template = align(points, self.template, zoom)
            matrices.append(compose(self.average if onto_template is None else onto_template, matrix))
        return matrices
