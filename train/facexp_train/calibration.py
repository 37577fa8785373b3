"""Does a probability of 0.8 mean right in four of five cases? Measured, and mended by one temperature a head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

BINS = 15
"""Bins of equal width over [0, 1] that the calibration error is summed over."""


def fit_temperature(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """The T for which softmax(logits / T) gives the true classes the highest likelihood.

    `logits` is (N, C); `truth` (N,) holds codes, -1 for a face that is not rated. 1.0 where none is rated.
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
    """(N,) the bin 0..BINS-1 that a confidence in [0, 1] lies in; a bin holds its upper edge."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


@dataclass(frozen=True, slots=True)
class Curve:
    """How often labels are right by how probable they are said to be, over the bins that hold a face."""

    confidence: NDArray[np.float64]
    """(B,) the mean probability of a bin's first labels."""
    accuracy: NDArray[np.float64]
    """(B,) the share of them that is right."""
    faces: NDArray[np.int64]
    """(B,) how many."""


def curve(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> Curve:
    """The curve of (N, C) logits against (N,) codes, -1 for a face that is not rated."""
    rated = truth >= 0
    chances = softmax(logits[rated].astype(np.float64), axis=1)
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == truth[rated]
    bins = bin_of(confidence)
    faces = np.bincount(bins, minlength=BINS)
    used = faces > 0
    means = [np.bincount(bins, values, BINS)[used] / faces[used] for values in (confidence, right)]
    return Curve(means[0], means[1], faces[used])
