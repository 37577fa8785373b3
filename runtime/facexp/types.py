"""What facexp answers with: frozen records, safe to keep, compare and pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from facexp.geometry import KEYPOINTS, Points


@dataclass(frozen=True, slots=True)
class Emotion:
    """The emotion of one face."""

    label: str
    """The most probable label."""
    probabilities: Mapping[str, float]
    """Label -> probability in [0, 1], in the order of the label list; they sum to 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Smoothed:
    """What one face of a video shows, with the frames before taken into account."""

    keypoints: Points
    """(15, 2) float32 pixels, read-only, as in `Face`."""
    emotion: Emotion

    def __post_init__(self) -> None:
        object.__setattr__(self, "keypoints", _frozen(self.keypoints))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Smoothed):
            return NotImplemented
        return self.emotion == other.emotion and np.array_equal(self.keypoints, other.keypoints)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[Smoothed], tuple[object, ...]]:
        # a copy is made anew: numpy does not keep that an array is read-only
        return Smoothed, (self.keypoints, self.emotion)


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face of an image. Coordinates are image pixels; the centre of the first pixel is (0, 0)."""

    box: tuple[float, float, float, float]
    """x, y, width and height in pixels, counted at the pixels' borders: a whole image is (0, 0, width, height)."""
    score: float
    """The detector's confidence in [0, 1] when it last saw the face, which in a video may be some frames ago; 1.0 where
    a crop was given as a face."""
    keypoints: Points
    """(15, 2) float32 x, y in the order of `facexp.KEYPOINTS`, read-only; points may lie outside the image."""
    emotion: Emotion
    id: int | None = None
    """The same number from frame to frame while a video shows this face, from 1; None in a photo."""
    smoothed: Smoothed | None = None
    """Points and emotion smoothed over time; None in a photo and where smoothing is off."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keypoints", _frozen(self.keypoints))

    @property
    def shown(self) -> Smoothed:
        """The points and the emotion for a person to see: smoothed where there is such a thing."""
        return self.smoothed or Smoothed(self.keypoints, self.emotion)

    def __eq__(self, other: object) -> bool:
        # the generated comparison would ask an array for one truth value and raise
        if not isinstance(other, Face):
            return NotImplemented
        return (
            self.box == other.box
            and self.score == other.score
            and self.emotion == other.emotion
            and np.array_equal(self.keypoints, other.keypoints)
            and self.id == other.id
            and self.smoothed == other.smoothed
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[Face], tuple[object, ...]]:
        # as for Smoothed
        return Face, (self.box, self.score, self.keypoints, self.emotion, self.id, self.smoothed)


def _frozen(keypoints: Points) -> Points:
    points = np.array(keypoints, dtype=np.float32)
    if points.shape != (len(KEYPOINTS), 2):
        raise ValueError(f"a face needs keypoints of shape ({len(KEYPOINTS)}, 2), got {points.shape}")
    points.setflags(write=False)
    return points


@dataclass(frozen=True, slots=True)
class Timings:
    """How long the steps of one call took, in milliseconds of wall-clock time; 0 for a step that did not run."""

    detect_ms: float = 0.0
    keypoints_ms: float = 0.0
    emotion_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Frame:
    """The record of one image or of one frame of a clip: its faces, or the reason why there are none."""

    source: str
    """The source's name as it was given, without the user name and password of an address."""
    index: int
    """Number of the frame in its source, from 0."""
    time_ms: float
    """Time of the frame in its source, or since a live source's first frame, in milliseconds; 0 for a photo."""
    width: int | None
    """Width of the image in pixels; None where it could not be read."""
    height: int | None
    """Height of the image in pixels; None where it could not be read."""
    device: str | None
    """Where the networks ran: "cpu" or "cuda"; None where nothing ran."""
    faces: tuple[Face, ...]
    """Largest first; empty when there is no face or the image could not be read."""
    timings: Timings | None
    """None where nothing ran."""
    error: str | None = None
    """One line saying why the image could not be read; None when it was."""
    age_ms: float | None = None
    """Milliseconds from the arrival of a live source's frame to this record; None for what is not live."""
    dropped: int | None = None
    """How many frames of a live source newer ones replaced since the last record; None for what is not live."""

    @classmethod
    def unread(cls, source: str, index: int, error: str) -> Frame:
        """The record of a frame that could not be read, or of a source that has no such frame."""
        return cls(source, index, 0.0, None, None, None, (), None, error)
