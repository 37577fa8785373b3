"""Loss functions that ignore points and faces without a label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops


def weighted_distance(target: Any, prediction: Any) -> Any:
    """Mean weighted distance between predicted and labelled points.

    `target` is (N, 15, 3): x, y in pixels and the point's weight, 0 where it is not labelled; `prediction` is
    (N, 15, 2), x, y in pixels. With a weight of 1 / inter-ocular distance this is the error that evaluations report.
    """
    weight = target[..., 2]
    squared = ops.sum(ops.square(target[..., :2] - prediction), axis=-1)
    # the gradient of the square root is infinite at zero
    error = ops.sqrt(squared + 1e-4) * weight
    return ops.sum(error) / ops.maximum(ops.sum(ops.cast(weight > 0, "float32")), 1.0)


def squared_error(target: Any, prediction: Any) -> Any:
    """Mean squared error of the labelled points' coordinates, in square pixels.

    Shapes are those of `weighted_distance`; a weight only says whether the point is labelled.
    """
    known = ops.cast(target[..., 2:] > 0, "float32")
    error = ops.square(target[..., :2] - prediction) * known
    return ops.sum(error) / ops.maximum(2 * ops.sum(known), 1.0)


def soft_cross_entropy(target: Any, logits: Any) -> Any:
    """Mean cross-entropy of (N, C) logits against (N, C) target distributions.

    A face without a label has a target of zeros and adds nothing; it still counts in the mean over N.
    """
    return -ops.sum(target * ops.log_softmax(logits, axis=-1)) / ops.cast(ops.shape(target)[0], "float32")


def grouped_cross_entropy(members: Sequence[int], weight: float) -> Callable[[Any, Any], Any]:
    """Return a loss: `soft_cross_entropy` plus `weight` times the same over the classes `members` alone.

    The second term judges the probabilities renormalised over these classes. A face contributes to it in proportion to
    the probability that its target gives them.
    """
    chosen = list(members)

    def loss(target: Any, logits: Any) -> Any:
        among = soft_cross_entropy(ops.take(target, chosen, axis=-1), ops.take(logits, chosen, axis=-1))
        return soft_cross_entropy(target, logits) + weight * among

    return loss
