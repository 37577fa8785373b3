"""Points and probabilities of one face of a video, smoothed over time, whatever the frame rate and the face's size."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from facexp.geometry import Points, interocular
from facexp.types import Emotion, Smoothed

# how far the points' cutoff (Hz) opens for a point that moves one inter-ocular distance a second, and the cutoff of
# that speed's own low-pass: chosen on the sample clips by benchmarks/tracking.py
_BETA = 12.0
_SPEED_CUTOFF = 2.0
# two frames with one time stamp still follow each other
_SHORTEST_S = 1e-3


class Smoother:
    """The filters of one face.

    Points: the one-euro filter (Casiez, Roussel and Vogel, "1 euro filter: a simple speed-based low-pass filter for
    noisy input in interactive systems", CHI 2012), speeds in inter-ocular distances a second, so that a near face and a
    far one are smoothed alike. Probabilities: the exponential mean.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds` is the time constant: of the probabilities, and of the points while the face is still.

        After a change the smoothed probabilities have come 63% of the way in that time. ValueError unless above 0.
        """
        if not seconds > 0:
            raise ValueError(f"a time constant must be above 0 seconds, got {seconds}")
        self._seconds = seconds
        self._time_ms: float | None = None
        self._raw: NDArray[np.float64] = np.empty(0)
        self._points: NDArray[np.float64] = np.empty(0)
        self._speed: NDArray[np.float64] = np.empty(0)
        self._shares: NDArray[np.float64] = np.empty(0)

    def __call__(self, points: Points, emotion: Emotion, time_ms: float) -> Smoothed:
        """The smoothed (15, 2) points in pixels and emotion at this time; the first are the raw ones."""
        raw = points.astype(np.float64)
        shares = np.array(list(emotion.probabilities.values()))
        if self._time_ms is None:
            self._raw, self._points, self._speed, self._shares = raw, raw, np.zeros_like(raw), shares
        else:
            passed = max((time_ms - self._time_ms) / 1000, _SHORTEST_S)
            self._follow(raw, passed)
            self._shares = self._shares - math.expm1(-passed / self._seconds) * (shares - self._shares)
        self._time_ms = time_ms
        labels = list(emotion.probabilities)
        smooth = Emotion(labels[int(self._shares.argmax())], dict(zip(labels, self._shares.tolist(), strict=True)))
        return Smoothed(self._points.astype(np.float32), smooth)

    def _follow(self, raw: NDArray[np.float64], passed: float) -> None:
        # in full profile the eyes lie on each other: no face is narrower than a quarter of its points' spread
        unit = max(float(interocular(raw[None].astype(np.float32))[0]), float(np.ptp(raw, axis=0).max()) / 4, 1e-6)
        # from the raw points: against the smoothed ones it would grow with the frame rate
        speed = (raw - self._raw) / (unit * passed)
        self._raw = raw
        self._speed += _weight(passed, _SPEED_CUTOFF) * (speed - self._speed)
        cutoff = 1 / (2 * math.pi * self._seconds) + _BETA * np.linalg.norm(self._speed, axis=1, keepdims=True)
        self._points = self._points + _weight(passed, cutoff) * (raw - self._points)


def _weight(passed: float, cutoff: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of the newest value a low-pass takes after `passed` seconds; an even motion lags alike at any rate."""
    return np.asarray(1 / (1 + 1 / (2 * math.pi * cutoff * passed)))
