"""Losses that leave out what is not labelled."""

from __future__ import annotations

from typing import Any

from keras import ops


def masked_distance(target: Any, prediction: Any) -> Any:
    """Mean absolute error in pixels over the labelled points.

    `target` is (N, 15, 3): x, y and 1 where the point is labelled, else 0; `prediction` is (N, 15, 2).
    """
    known = target[..., 2:]
    error = ops.abs(target[..., :2] - prediction) * known
    return ops.sum(error) / ops.maximum(2 * ops.sum(known), 1.0)


def soft_cross_entropy(target: Any, logits: Any) -> Any:
    """Cross-entropy of (N, C) logits against distributions; a row of zeros, a face without a label, adds nothing."""
    return -ops.sum(target * ops.log_softmax(logits, axis=-1)) / ops.cast(ops.shape(target)[0], "float32")
