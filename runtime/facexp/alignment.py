"""Where the emotion network's crop is cut: a face's points are put onto those of an average face."""

from __future__ import annotations

from dataclasses import dataclass

from facexp.bundle import EmotionSpec, KeypointsSpec
from facexp.geometry import ALIGNMENT, Matrix, Points, align, compose, similarity, zoom_of
from facexp.keypoints import Found


@dataclass(frozen=True, slots=True)
class Alignment:
    """From the keypoint network's crops to the emotion network's."""

    template: Points
    """(15, 2) points of an average face in pixels of the emotion crop."""
    average: Matrix
    """(2, 3), from keypoint to emotion crop for an average face: what faces are cut by whose points are no face's."""

    @classmethod
    def of(cls, keypoints: KeypointsSpec, emotion: EmotionSpec) -> Alignment:
        """The alignment that a bundle's two networks were trained for."""
        chosen = list(ALIGNMENT)
        return cls(emotion.template, similarity(keypoints.mean_shape[chosen], emotion.template[chosen]))

    def matrices(self, found: Found) -> list[Matrix]:
        """(2, 3) matrices from image to emotion crop, one a face."""
        zoom = zoom_of(self.average)
        placed = []
        for matrix, points in zip(found.placed, found.points, strict=True):
            onto_template = align(points, self.template, zoom)
            placed.append(compose(self.average if onto_template is None else onto_template, matrix))
        return placed
