"""The networks that course notebooks build: a residual network of bottlenecks, and a plain convolutional one.

Each is followed by dense layers. Inputs and outputs are those of `facexp_train.networks.resnet`, so that all other code
works with them unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from facexp.geometry import KEYPOINTS
from facexp.labels import SEVEN
from facexp_train.networks.resnet import convolution

Trunk = Callable[..., Any]


def resnet(x: Any, stem: int = 64, stages: Sequence[int] = (64, 128), blocks: int = 3) -> Any:
    """Apply a 7x7 stem, then stages of bottlenecks of these widths, with outputs four times as wide.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. Each stage halves the map.
    """
    x = convolution(x, stem, 7, 2, name="stem")
    x = layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)
    for number, width in enumerate(stages, 1):
        for block in range(1, blocks + 1):
            x = _bottleneck(x, width, 2 if block == 1 else 1, name=f"stage{number}_block{block}")
    return layers.AveragePooling2D(2, name="pool")(x)


def _bottleneck(x: Any, width: int, stride: int, *, name: str) -> Any:
    shortcut = x
    if stride != 1 or x.shape[-1] != 4 * width:
        shortcut = convolution(x, 4 * width, 1, stride, name=f"{name}_shortcut", activation=False)
    y = convolution(x, width, 1, stride, name=f"{name}_a")
    y = convolution(y, width, 3, name=f"{name}_b")
    y = convolution(y, 4 * width, 1, name=f"{name}_c", activation=False)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([y, shortcut]))


def cnn(x: Any, stages: Sequence[int] = (32, 64, 128, 256), blocks: int = 2, dropout: float = 0.1) -> Any:
    """Apply stages of 3x3 convolutions of these widths, each followed by a pooling that halves the map, and dropout."""
    for number, width in enumerate(stages, 1):
        for block in range(1, blocks + 1):
            x = convolution(x, width, 3, name=f"stage{number}_block{block}")
        x = layers.MaxPooling2D(2, name=f"stage{number}_pool")(x)
        x = layers.Dropout(dropout, name=f"stage{number}_dropout")(x)
    return x


def keypoints(
    trunk: Trunk, size: int = 96, dense: Sequence[int] = (512,), dense_dropout: float = 0.2, **options: Any
) -> keras.Model:
    """Build a trunk with dense layers for coordinates: uint8 (N, size, size, 1) -> float32 (N, 15, 2) in crop pixels.

    `options` are passed to the trunk.
    """
    image = keras.Input((size, size, 1), dtype="uint8", name="image")
    x = _dense(trunk(layers.Rescaling(1 / 255, name="scale")(image), **options), dense, dense_dropout)
    # the biases of an untrained network put all points into the middle of the crop
    x = layers.Dense(2 * len(KEYPOINTS), bias_initializer=_middle(size), name="coordinates", dtype="float32")(x)
    points = layers.Reshape((len(KEYPOINTS), 2), name="keypoints", dtype="float32")(x)
    return keras.Model(image, points, name="keypoints")


def emotion(
    trunk: Trunk,
    size: int = 48,
    enlarge: int = 1,
    dense: Sequence[int] = (),
    dense_dropout: float = 0.2,
    heads: Sequence[str] = ("fer2013", "ferplus"),
    classes: int = len(SEVEN),
    **options: Any,
) -> keras.Model:
    """Build a trunk with dense layers for classes: uint8 (N, size, size, 1) -> float32 logits (N, classes) per head.

    `enlarge` is the factor by which the crop is enlarged for the trunk. `options` are passed to the trunk.
    """
    image = keras.Input((size, size, 1), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255, name="scale")(image)
    if enlarge > 1:
        x = layers.UpSampling2D(enlarge, interpolation="bilinear", name="enlarge")(x)
    x = _dense(trunk(x, **options), dense, dense_dropout)
    outputs = {head: layers.Dense(classes, name=head, dtype="float32")(x) for head in heads}
    return keras.Model(image, outputs, name="emotion")


def _dense(x: Any, widths: Sequence[int], dropout: float) -> Any:
    x = layers.Flatten(name="flat")(x)
    for number, width in enumerate(widths, 1):
        x = layers.Dense(width, activation="relu", name=f"dense{number}")(x)
        x = layers.Dropout(dropout, name=f"dense{number}_dropout")(x)
    return x


def _middle(size: int) -> keras.initializers.Initializer:
    return keras.initializers.Constant((size - 1) / 2)
