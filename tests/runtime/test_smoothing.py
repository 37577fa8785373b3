"""Smoothing over time: the formulas, and that neither the frame rate nor the size of the face changes the result."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

import tiny_bundle as tiny
from facexp.geometry import interocular
from facexp.smoothing import Smoother
from facexp.types import Emotion

Points = NDArray[np.float32]
STILL = 0.3


def emotion(happy: float) -> Emotion:
    return Emotion("happy" if happy > 0.5 else "sad", {"happy": happy, "sad": 1 - happy})


@pytest.mark.parametrize("fps", [5, 25, 120])
def test_a_step_takes_the_time_constant_at_any_frame_rate(fps: int) -> None:
    # guards: seconds, not frames
    smoother = Smoother(0.4)
    assert smoother(tiny.MEAN_SHAPE, emotion(0.0), 0.0).emotion == emotion(0.0)
    found = {}
    for frame in range(1, 2 * fps + 1):
        smooth = smoother(tiny.MEAN_SHAPE, emotion(1.0), 1000 * frame / fps).emotion
        found[frame / fps] = smooth.probabilities["happy"]
        assert sum(smooth.probabilities.values()) == pytest.approx(1)
        assert smooth.label == ("happy" if smooth.probabilities["happy"] > 0.5 else "sad")
    for seconds, happy in found.items():
        assert happy == pytest.approx(1 - math.exp(-seconds / 0.4), abs=1e-9)


def test_a_pause_counts_as_the_time_that_passed() -> None:
    # guards: --every N and lost frames
    steady, gappy = Smoother(0.4), Smoother(0.4)
    for smoother, times in ((steady, range(0, 1001, 40)), (gappy, (0, 40, 600, 1000))):
        for time_ms in times:
            last = smoother(tiny.MEAN_SHAPE, emotion(float(time_ms > 0)), float(time_ms))
        assert last.emotion.probabilities["happy"] == pytest.approx(1 - math.exp(-1 / 0.4))


def filmed(shape: Points, fps: float, speed: float, jitter: float, seconds: float = 4) -> tuple[Points, Points]:
    """Raw and smoothed points of a face that is still for the first half, then moves `speed` inter-ocular distances
    a second, with a jitter of `jitter` of them."""
    unit = float(interocular(shape[None])[0])
    smoother, rng = Smoother(STILL), np.random.default_rng(0)
    raw, smooth = [], []
    for frame in range(round(seconds * fps)):
        shift = speed * unit * max(0.0, frame / fps - seconds / 2)
        points = (shape + np.array([shift, 0]) + rng.normal(0, jitter * unit, shape.shape)).astype(np.float32)
        raw.append(points)
        smooth.append(smoother(points, emotion(0.7), 1000 * frame / fps).keypoints)
    return np.stack(raw), np.stack(smooth)


def test_a_still_face_jitters_less() -> None:
    # guards: the purpose of the filter
    raw, smooth = filmed(tiny.MEAN_SHAPE, 25, speed=0.0, jitter=0.004)
    assert smooth[25:].std(axis=0).mean() < 0.5 * raw[25:].std(axis=0).mean()


def test_smoothing_does_not_lag_behind_a_moving_face() -> None:
    # guards: the cutoff opens with the speed; a plain low-pass of this time constant would lag by speed * time
    for speed in (1.0, 4.0):
        raw, smooth = filmed(tiny.MEAN_SHAPE, 25, speed=speed, jitter=0.0)
        behind = float(np.abs(raw[-1] - smooth[-1])[:, 0].mean()) / float(interocular(raw[-1:])[0])
        assert 0 < behind < 0.25 * speed * STILL


def test_size_and_frame_rate_do_not_matter() -> None:
    # guards: speeds in inter-ocular distances, and filters that use the time that has passed
    _, small = filmed(tiny.MEAN_SHAPE, 25, speed=2.0, jitter=0.003)
    _, large = filmed(tiny.MEAN_SHAPE * 8, 25, speed=2.0, jitter=0.003)
    assert np.abs(large / 8 - small).max() < 0.01
    ends = [filmed(tiny.MEAN_SHAPE, fps, speed=2.0, jitter=0.0) for fps in (25, 100)]
    lags = [float((raw[-1] - smooth[-1])[:, 0].mean()) for raw, smooth in ends]
    assert lags[0] == pytest.approx(lags[1], rel=0.25)


@pytest.mark.parametrize("times", [(0, 0, 0), (1000, 900, 980), (0, 1e9, 1e9 + 40)])
def test_invalid_time_stamps_do_no_harm(times: tuple[float, ...]) -> None:
    # guards: no division by zero, no value beyond the raw ones, where a stream's clock stops or jumps
    smoother = Smoother(0.3)
    for step, time_ms in enumerate(times):
        smooth = smoother(tiny.MEAN_SHAPE + step, emotion(0.2 + 0.3 * step), time_ms)
        assert np.isfinite(smooth.keypoints).all()
        assert (smooth.keypoints >= tiny.MEAN_SHAPE - 1e-3).all()
        assert (smooth.keypoints <= tiny.MEAN_SHAPE + step + 1e-3).all()
        assert 0.2 <= smooth.emotion.probabilities["happy"] <= 0.2 + 0.3 * step + 1e-9


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_time_constant_must_be_above_0(seconds: float) -> None:
    # guards: division by zero
    with pytest.raises(ValueError, match="above 0 seconds"):
        Smoother(seconds)


def test_points_that_collapse_do_no_harm() -> None:
    # guards: eyes at the same place, as in full profile
    smoother = Smoother(0.3)
    for step in range(3):
        smooth = smoother(np.full((15, 2), 5.0 * step, np.float32), emotion(0.7), 40.0 * step)
        assert np.isfinite(smooth.keypoints).all()
