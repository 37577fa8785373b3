"""Builds the network that the table `network` of a configuration describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras

from facexp_train.config import Task
from facexp_train.errors import DataError
from facexp_train.networks import classic
from facexp_train.networks.resnet import emotion_network, keypoint_network

DEFAULT = "facexp"
BUILDERS: dict[Task, dict[str, Callable[..., keras.Model]]] = {
    "keypoints": {
        DEFAULT: keypoint_network,
        "resnet": partial(classic.keypoints, classic.resnet),
        "cnn": partial(classic.keypoints, classic.cnn),
    },
    "emotion": {
        DEFAULT: emotion_network,
        "resnet": partial(classic.emotion, classic.resnet),
        "cnn": partial(classic.emotion, classic.cnn),
    },
}
"""Task -> kind -> the function that builds the network."""


def build_network(task: Task, network: Mapping[str, Any], **made: Any) -> keras.Model:
    """Build a new network.

    `network` holds its kind and arguments of the kind's function; `made` are the arguments that depend on the data.
    Sets Keras' image data format and float type, for training too. Raises DataError if the kind or an argument is
    unknown, or the network cannot be built.
    """
    # a keras.json, or the program that calls this, may have set other values for networks of its own
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    kinds, kind = BUILDERS[task], network.get("kind", DEFAULT)
    if not isinstance(kind, str) or kind not in kinds:
        raise DataError(f"network.kind must be one of {', '.join(kinds)}, got {kind!r}")
    try:
        return kinds[kind](**{key: value for key, value in network.items() if key != "kind"}, **made)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"network: kind {kind!r} cannot be built from {dict(network)}: {reason}") from error
