"""Smooth the keypoints and probabilities of one face of a video over time, at any frame rate and face size."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from facexp.geometry import Points, interocular
from facexp.types import Emotion, Smoothed

# by how many Hz the points' cutoff rises for a point that moves one inter-ocular distance a second, and the cutoff (Hz)
# of the low-pass that smooths this speed; both chosen on the sample clips with benchmarks/tracking.py
_BETA = 12.0
_SPEED_CUTOFF_HZ = 2.0
# the least time between two frames, in seconds, even if both have the same time stamp
_MIN_STEP_S = 1e-3


class Smoother:
    """The filters of one face.

    Points: the one-euro filter (Casiez, Roussel and Vogel, "1 euro filter: a simple speed-based low-pass filter for
    noisy input in interactive systems", CHI 2012), with speeds in inter-ocular distances a second, so that near and far
    faces are smoothed alike. Probabilities: an exponential moving average.
    """

    def __init__(self, seconds: float) -> None:
        """Create the filters; `seconds` is the time constant of the probabilities and of the points of a still face.

        After a change, the smoothed probabilities cover 63% of the difference in that time. Raises ValueError unless
        `seconds` is above 0.
        """
        if not seconds > 0:
            raise ValueError(f"a time constant must be above 0 seconds, got {seconds}")
        self._seconds = seconds
        self._time_ms: float | None = None
        self._raw: NDArray[np.float64] = np.empty(0)
        self._points: NDArray[np.float64] = np.empty(0)
        self._speed: NDArray[np.float64] = np.empty(0)
        self._probs: NDArray[np.float64] = np.empty(0)

    def __call__(self, points: Points, emotion: Emotion, time_ms: float) -> Smoothed:
        """Smooth the (15, 2) points, in pixels, and the emotion of a frame; the first frame's come back unchanged."""
        raw = points.astype(np.float64)
        probs = np.array(list(emotion.probabilities.values()))
        if self._time_ms is None:
            self._raw, self._points, self._speed, self._probs = raw, raw, np.zeros_like(raw), probs
        else:
            step_s = max((time_ms - self._time_ms) / 1000, _MIN_STEP_S)
            self._smooth_points(raw, step_s)
            self._probs = self._probs - math.expm1(-step_s / self._seconds) * (probs - self._probs)
        self._time_ms = time_ms
        labels = list(emotion.probabilities)
        smooth = Emotion(labels[int(self._probs.argmax())], dict(zip(labels, self._probs.tolist(), strict=True)))
        return Smoothed(self._points.astype(np.float32), smooth)

    def _smooth_points(self, raw: NDArray[np.float64], step_s: float) -> None:
        # the unit of length is the inter-ocular distance, but at least a quarter of the points' spread, because in full
        # profile the two eyes coincide
        unit = max(float(interocular(raw[None].astype(np.float32))[0]), float(np.ptp(raw, axis=0).max()) / 4, 1e-6)
        # between raw points: the distance from the smoothed points would give a speed that grows with the frame rate
        speed = (raw - self._raw) / (unit * step_s)
        self._raw = raw
        self._speed += _weight(step_s, _SPEED_CUTOFF_HZ) * (speed - self._speed)
        cutoff_hz = 1 / (2 * math.pi * self._seconds) + _BETA * np.linalg.norm(self._speed, axis=1, keepdims=True)
        self._points = self._points + _weight(step_s, cutoff_hz) * (raw - self._points)


def _weight(step_s: float, cutoff_hz: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weight of the newest value in a low-pass after `step_s` seconds.

    With it the lag behind an even motion does not depend on the frame rate.
    """
    return np.asarray(1 / (1 + 1 / (2 * math.pi * cutoff_hz * step_s)))
