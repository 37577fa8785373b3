"""The results of facexp: frozen records, safe to keep, compare and pickle."""

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
    """The keypoints and emotion of one face of a video, smoothed over the frames before."""

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
        # pickling calls the constructor again, because numpy does not preserve that an array is read-only
        return Smoothed, (self.keypoints, self.emotion)


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face of an image. Coordinates are in pixels of the image; the centre of the first pixel is (0, 0)."""

    box: tuple[float, float, float, float]
    """x, y, width and height in pixels, measured at the pixels' edges: a whole image is (0, 0, width, height)."""
    score: float
    """The detector's confidence in [0, 1] when it last found the face, which in a video may be some frames ago; 1.0 for
    a crop that was given as one face."""
    keypoints: Points
    """(15, 2) float32 x, y in the order of `facexp.KEYPOINTS`, read-only; points may lie outside the image."""
    emotion: Emotion
    id: int | None = None
    """Number of the face, from 1, constant while a video shows it; None in a photo."""
    smoothed: Smoothed | None = None
    """Keypoints and emotion smoothed over time; None in a photo and if smoothing is off."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keypoints", _frozen(self.keypoints))

    @property
    def shown(self) -> Smoothed:
        """The keypoints and emotion to display: the smoothed ones if there are any, else the raw ones."""
        return self.smoothed or Smoothed(self.keypoints, self.emotion)

    def __eq__(self, other: object) -> bool:
        # the generated __eq__ would raise, because a comparison of arrays has no single truth value
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
        # as in Smoothed
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
    """The record of one photo or of one frame of a clip or live source: its faces, or why it could not be read."""

    source: str
    """The source's name as it was given, without the user name and password of an address."""
    index: int
    """Number of the frame in its source, from 0."""
    time_ms: float
    """Time of the frame in its source, or since a live source's first frame, in milliseconds; 0 for a photo."""
    width: int | None
    """Width of the image in pixels; None if it could not be read."""
    height: int | None
    """Height of the image in pixels; None if it could not be read."""
    device: str | None
    """Where the networks ran: "cpu" or "cuda"; None if nothing ran."""
    faces: tuple[Face, ...]
    """The faces, largest first; empty if there is no face or the image could not be read."""
    timings: Timings | None
    """How long the steps took; None if nothing ran."""
    error: str | None = None
    """One line that says why the image could not be read; None if it was read."""
    age_ms: float | None = None
    """Milliseconds from the arrival of a live source's frame to this record; None if the source is not live."""
    dropped: int | None = None
    """How many frames of a live source were replaced by newer ones since the last record; None if it is not live."""

    @classmethod
    def unread(cls, source: str, index: int, error: str) -> Frame:
        """Return the record of a frame, or of a whole source, that could not be read."""
        return cls(source, index, 0.0, None, None, None, (), None, error)
