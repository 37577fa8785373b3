"""A clip whose faces are discs at known places, with a fake detector that finds them there.

A face is a gray disc with a bright dot in its middle. The keypoint network of the tiny bundle puts its points round the
dot that its crop shows.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import facexp
from facexp.detector import Detection
from facexp.tracking import Tracker

Image = NDArray[np.uint8]
Place = tuple[float, ...]
"""x and y of the middle in pixels, and the side of the box if it is not `Film.SIDE`."""


class Film:
    """A tracker with a fake detector, and a record of the runs of detector and keypoint network."""

    SIDE = 60.0
    """Side of a face's box in pixels."""
    MS = 40.0
    """Milliseconds between two frames."""

    def __init__(self, bundle: Path, *, smooth: float = 0.0, detect_every: int | None = None, **limits: Any) -> None:
        self.analyzer = facexp.Analyzer("cpu", 1, precision="float32", bundle=bundle, **limits)
        self.analyzer._detector = SimpleNamespace(detect=self._detect)  # type: ignore[assignment]
        keypoints = self.analyzer._keypoints.session
        self.tracker = Tracker(self.analyzer, smooth=smooth, detect_every=detect_every)
        self.detector_runs: list[int] = []
        """Numbers of the frames in which the detector ran."""
        self.min_detected_x = -np.inf
        """The detector misses boxes whose left edge is further left."""
        self.batches: list[int] = []
        """Batch sizes of the keypoint network's runs."""
        self.frame = -1
        self._run, self._rng = keypoints.run, np.random.default_rng(0)
        keypoints.run = self._points  # type: ignore[method-assign]

    def show(self, *places: Place, scene: int = 0, step: int = 1, background: Image | None = None) -> list[facexp.Face]:
        """Track the next frame: a face at each place, the later ones in front. Scenes 0 and 1 differ in background."""
        self.frame += step
        image = (
            np.tile(np.uint8([0, 60] if scene else [0, 0]).repeat(40), (240, 6))
            if background is None
            else background.copy()
        )
        for place in places:
            middle = (round(16 * place[0]), round(16 * place[1]))
            for share, gray in ((0.5, 80), (0.1, 255)):
                cv2.circle(image, middle, round(16 * share * side(place)), gray, -1, cv2.LINE_AA, 4)
        self.places = places
        return self.tracker.track(image, self.MS * self.frame)

    def ids(self, *places: Place, **options: Any) -> dict[int, int | None]:
        """Show a frame and return the id of the face at each place, by the index of the place."""
        faces = self.show(*places, **options)
        found = {}
        for number, place in enumerate(places):
            here = [face for face in faces if np.hypot(*(self.centre(face) - place[:2])) < self.SIDE / 4]
            assert len(here) <= 1
            if here:
                found[number] = here[0].id
        assert len(found) == len(faces)
        return found

    @staticmethod
    def centre(face: facexp.Face) -> NDArray[np.float64]:
        """Return the centre (2,) of a face's box."""
        x, y, w, h = face.box
        return np.array([x + w / 2, y + h / 2])

    def _detect(self, _: Image, min_face: float = 0) -> list[Detection]:
        self.detector_runs.append(self.frame)
        kept: list[Place] = []
        for place in reversed(self.places):
            # of two faces that overlap, the detector finds the one in front
            if all(np.hypot(place[0] - other[0], place[1] - other[1]) > self.SIDE / 3 for other in kept):
                kept.append(place)
        boxes = [(place[0] - side(place) / 2, place[1] - side(place) / 2, side(place), side(place)) for place in kept]
        return [Detection(box, 0.9) for box in sorted(boxes, key=lambda box: -box[2]) if box[0] >= self.min_detected_x]

    def _points(self, batch: Image) -> Any:
        self.batches.append(len(batch))
        out = self._run(batch)
        # without a face in the crop, the points are random and differ from run to run
        nothing = batch.max(axis=(1, 2, 3)) < 100
        out["keypoints"][nothing] += self._rng.normal(0, 8, (int(nothing.sum()), 15, 2)).astype(np.float32)
        return out


def side(place: Place) -> float:
    return place[2] if len(place) > 2 else Film.SIDE
