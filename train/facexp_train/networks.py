"""The two networks: residual blocks of plain 3x3 convolutions, which quantize well and run fast on a CPU.

Both take uint8 crops and scale them to [0, 1] in their first layer, so no caller can get the scaling wrong.
Residual blocks follow He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (batch norm after each
convolution, so that an exporter can fold it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from facexp.geometry import KEYPOINTS
from facexp.labels import SEVEN


def convolution(x: Any, channels: int, kernel: int, stride: int = 1, *, name: str, activation: bool = True) -> Any:
    """A convolution with batch norm, and a ReLU unless told otherwise."""
    x = layers.Conv2D(
        channels, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if activation else x


def _residual(x: Any, channels: int, stride: int, *, name: str) -> Any:
    shortcut = x
    if stride != 1 or x.shape[-1] != channels:
        shortcut = convolution(x, channels, 1, stride, name=f"{name}_shortcut", activation=False)
    y = convolution(x, channels, 3, stride, name=f"{name}_a")
    y = convolution(y, channels, 3, name=f"{name}_b", activation=False)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([y, shortcut]))


def _stages(x: Any, channels: Sequence[int], blocks: int) -> list[Any]:
    """The outputs of stages that each halve the map."""
    outputs = []
    for number, width in enumerate(channels, 1):
        for block in range(blocks):
            x = _residual(x, width, 2 if block == 0 else 1, name=f"stage{number}_block{block + 1}")
        outputs.append(x)
    return outputs


@keras.saving.register_keras_serializable("facexp")
class SoftArgmax(layers.Layer):  # type: ignore[misc]
    """Heatmap logits (N, H, W, K) -> expected positions (N, K, 2) of the maps' softmax, x and y in crop pixels.

    Formula: integral regression, Sun et al., "Integral Human Pose Regression", ECCV 2018.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def call(self, logits: Any) -> Any:
        """Expectation over the map; a cell stands for the centre of its block of crop pixels."""
        height, width, points = logits.shape[1:]
        cell = self.size / width
        columns = keras.ops.tile(keras.ops.arange(width, dtype="float32"), [height])
        rows = keras.ops.repeat(keras.ops.arange(height, dtype="float32"), width)
        grid = (keras.ops.stack([columns, rows], axis=1) + 0.5) * cell - 0.5
        chance = keras.ops.softmax(keras.ops.reshape(logits, (-1, height * width, points)), axis=1)
        return keras.ops.matmul(keras.ops.transpose(chance, (0, 2, 1)), grid)

    def get_config(self) -> dict[str, Any]:
        """What rebuilds the layer."""
        return {**super().get_config(), "size": self.size}


def keypoint_network(
    size: int = 96, stem: int = 24, stages: Sequence[int] = (48, 96, 160), blocks: int = 2, head: int = 64
) -> keras.Model:
    """A residual network for the 15 points: uint8 (N, size, size, 1) -> float32 (N, 15, 2) in crop pixels.

    The stages' maps are merged back to a quarter of the crop's resolution, where a heatmap per point gives its position
    by soft-argmax. A dense offset from the pooled last stage lets a point lie outside of the
    crop, where no map reaches.
    """
    image = keras.Input((size, size, 1), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255, name="scale")(image)
    x = convolution(x, stem, 3, 2, name="stem")
    maps = _stages(x, stages, blocks)
    merged = maps[-1]
    for number in range(len(maps) - 2, -1, -1):
        merged = convolution(merged, stages[number], 1, name=f"merge{number + 1}", activation=False)
        merged = layers.UpSampling2D(2, name=f"merge{number + 1}_up")(merged)
        merged = layers.Add(name=f"merge{number + 1}_add")([merged, maps[number]])
        merged = layers.ReLU(name=f"merge{number + 1}_out")(merged)
    merged = convolution(merged, head, 3, name="head")
    logits = layers.Conv2D(len(KEYPOINTS), 1, name="heatmaps", dtype="float32")(merged)
    position = SoftArgmax(size, name="expectation", dtype="float32")(logits)
    pooled = layers.GlobalAveragePooling2D(name="pool", dtype="float32")(maps[-1])
    offset = layers.Dense(2 * len(KEYPOINTS), kernel_initializer="zeros", name="offset", dtype="float32")(pooled)
    offset = layers.Reshape((len(KEYPOINTS), 2), name="offset_points", dtype="float32")(offset)
    points = layers.Add(name="keypoints", dtype="float32")([position, offset])
    return keras.Model(image, points, name="keypoints")


def emotion_network(
    size: int = 48,
    margin: int = 2,
    stem: int = 32,
    stages: Sequence[int] = (40, 80, 144),
    blocks: int = 2,
    dropout: float = 0.3,
    heads: Sequence[str] = ("fer2013", "ferplus"),
    classes: int = len(SEVEN),
) -> keras.Model:
    """A residual network for the emotion: uint8 (N, size, size, 1) -> logits (N, classes) per head, a head a labelling.

    The outermost `margin` pixels are cut off inside the graph: a shifted training crop replicates its border there.
    """
    image = keras.Input((size, size, 1), dtype="uint8", name="image")
    x = layers.Cropping2D(margin, name="crop")(image)
    x = layers.Rescaling(1 / 255, name="scale")(x)
    x = convolution(x, stem, 3, name="stem")
    x = _stages(x, stages, blocks)[-1]
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    outputs = {head: layers.Dense(classes, name=head, dtype="float32")(x) for head in heads}
    return keras.Model(image, outputs, name="emotion")


def with_temperatures(model: keras.Model, temperatures: dict[str, float]) -> keras.Model:
    """The same emotion network with each head's logits divided by its temperature, inside the graph."""
    outputs = {
        name: layers.Rescaling(1 / temperatures[name], name=f"{name}_temperature")(logits)
        for name, logits in model.output.items()
    }
    return keras.Model(model.input, outputs, name=model.name)
