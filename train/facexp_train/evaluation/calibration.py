"""Calibration: whether answers with a probability of 0.8 are correct in four of five cases.

It is measured by a curve, and corrected by one temperature per head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

BINS = 15
"""Number of bins, of equal width over [0, 1], that the calibration error is summed over."""


def fit_temperature(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """Return the T, from 0.05 to 20, for which softmax(logits / T) gives the true classes the highest likelihood.

    `logits` is (N, C); `truth` (N,) holds codes, -1 for a face that is not rated. Returns 1.0 if no face is rated.
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    rated = truth >= 0
    if not rated.any():
        return 1.0
    values, true = logits[rated].astype(np.float64), truth[rated, None]

    def loss(logarithm: float) -> float:
        return float(-np.take_along_axis(log_softmax(values / np.exp(logarithm), axis=1), true, axis=1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def bin_of(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bins (N,), 0 to BINS - 1, of confidences (N,) in [0, 1]; a bin includes its upper edge."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


@dataclass(frozen=True, slots=True)
class Curve:
    """A calibration curve: accuracy over predicted probability, for the B bins that hold a face."""

    confidence: NDArray[np.float64]
    """(B,) the mean probability of the predicted classes in a bin."""
    accuracy: NDArray[np.float64]
    """(B,) the share of them that is correct, 0 to 1."""
    faces: NDArray[np.int64]
    """(B,) the number of faces in a bin."""


def curve(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> Curve:
    """Return the curve of (N, C) logits against (N,) true codes, -1 for a face that is not rated."""
    rated = truth >= 0
    probabilities = softmax(logits[rated].astype(np.float64), axis=1)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth[rated]
    bins = bin_of(confidence)
    faces = np.bincount(bins, minlength=BINS)
    used = faces > 0
    means = [np.bincount(bins, values, BINS)[used] / faces[used] for values in (confidence, correct)]
    return Curve(means[0], means[1], faces[used])
