"""Losses that leave out what is not labelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops


def weighted_distance(target: Any, prediction: Any) -> Any:
    """Mean distance over the labelled points, each times its weight.

    `target` is (N, 15, 3): x, y in pixels and the point's weight, 0 where it is not labelled; `prediction` is
    (N, 15, 2). With weights of one over the inter-ocular distance this is the error that is reported.
    """
    weight = target[..., 2]
    squared = ops.sum(ops.square(target[..., :2] - prediction), axis=-1)
    # the root of zero has no gradient
    error = ops.sqrt(squared + 1e-4) * weight
    return ops.sum(error) / ops.maximum(ops.sum(ops.cast(weight > 0, "float32")), 1.0)


def squared_error(target: Any, prediction: Any) -> Any:
    """Mean squared error of the labelled points' coordinates, in square pixels; shapes as above, weights unused."""
    known = ops.cast(target[..., 2:] > 0, "float32")
    error = ops.square(target[..., :2] - prediction) * known
    return ops.sum(error) / ops.maximum(2 * ops.sum(known), 1.0)


def soft_cross_entropy(target: Any, logits: Any) -> Any:
    """Cross-entropy of (N, C) logits against distributions; a row of zeros, a face without a label, adds nothing."""
    return -ops.sum(target * ops.log_softmax(logits, axis=-1)) / ops.cast(ops.shape(target)[0], "float32")


def grouped_cross_entropy(members: Sequence[int], weight: float) -> Callable[[Any, Any], Any]:
    """`soft_cross_entropy`, and `weight` times that among the classes `members` alone, as if there were no others.

    The second part is what an answer renormalised over these classes is judged by; a face adds to it in proportion to
    what its target gives them.
    """
    chosen = list(members)

    def loss(target: Any, logits: Any) -> Any:
        among = soft_cross_entropy(ops.take(target, chosen, axis=-1), ops.take(logits, chosen, axis=-1))
        return soft_cross_entropy(target, logits) + weight * among

    return loss
