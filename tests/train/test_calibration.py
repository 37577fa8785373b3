"""Temperatures and calibration errors against cases worked out by hand."""

import numpy as np
import pytest

from facexp_train.evaluation.calibration import bin_of, curve, fit_temperature
from facexp_train.evaluation.metrics import emotion_figures


def test_the_temperature_corrects_overconfidence() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (probabilities.cumsum(axis=1) > rng.random((20000, 1))).argmax(axis=1)
    assert fit_temperature((3 * logits).astype(np.float32), truth) == pytest.approx(3, rel=0.04)
    # faces without a label (-1) are ignored
    mixed = np.concatenate([3 * logits, np.full((5000, 4), [50, 0, 0, 0])]).astype(np.float32)
    assert fit_temperature(mixed, np.concatenate([truth, np.full(5000, -1)])) == pytest.approx(3, rel=0.04)
    assert fit_temperature(np.zeros((2, 4), np.float32), np.full(2, -1)) == 1.0


def test_bins_include_their_upper_edge() -> None:
    assert bin_of(np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 0.5, 1.0])).tolist() == [0, 0, 1, 7, 14]


def test_the_calibration_error_is_the_mean_gap_over_the_bins() -> None:
    # ten faces at 0.9 of which nine are right, ten at 0.6 of which one is right
    logits = np.log(np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)).astype(np.float32)
    truth = np.array([0] * 9 + [1] + [0] + [1] * 9)
    figures, _ = emotion_figures(logits, truth, np.arange(20).astype(str), ("a", "b"), "val")
    (error,) = (figure for figure in figures if figure.metric == "calibration_error")
    assert error.value == pytest.approx((10 * 0 + 10 * 0.5) / 20, abs=1e-6)
    assert error.low <= error.value <= error.high


def test_a_curve_has_only_bins_with_faces() -> None:
    logits = np.log(np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)).astype(np.float32)
    result = curve(logits, np.array([0] * 9 + [1] + [0] + [1] * 8 + [-1]))
    assert result.confidence == pytest.approx([0.6, 0.9])
    assert result.accuracy == pytest.approx([1 / 9, 0.9])
    assert result.faces.tolist() == [9, 10]


def test_the_interval_of_the_calibration_error_contains_its_value() -> None:
    # resampling adds to the error: even for perfectly calibrated faces, almost every resample has a gap
    logits = np.log(np.array([[0.9, 0.1]] * 100 + [[0.6, 0.4]] * 100)).astype(np.float32)
    truth = np.array([0] * 90 + [1] * 10 + [0] * 60 + [1] * 40)
    figures, _ = emotion_figures(logits, truth, np.arange(200).astype(str), ("a", "b"), "val")
    (error,) = (figure for figure in figures if figure.metric == "calibration_error")
    assert error.value == pytest.approx(0, abs=1e-6)
    assert error.low <= error.value < error.high
