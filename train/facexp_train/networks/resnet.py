"""The two networks: residual blocks of plain 3x3 convolutions, which quantize well and run fast on a CPU.

Both take uint8 crops and scale them to [0, 1] in one of their first layers, so that no caller can scale them wrongly.
Residual blocks follow He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (batch norm after each
convolution, so that an exporter can fold it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import layers

from facexp.geometry import KEYPOINTS
from facexp.labels import SEVEN


@keras.saving.register_keras_serializable("facexp")
class MirrorSymmetric(keras.constraints.Constraint):  # type: ignore[misc]
    """Constraint that replaces a weight by the mean of itself and its reflection, reversed along `axes`.

    A kernel that is unchanged when its width, inputs and outputs are reversed is mirror-equivariant: for a mirrored
    input map, with channels in reverse order, it gives the mirrored output map, also with channels in reverse order.
    So each channel responds to a feature, and its partner to the same feature on the other side of the face (after
    Cohen and Welling, "Group Equivariant Convolutional Networks", ICML 2016, for the group of a picture and its mirror
    image).
    """

    def __init__(self, axes: Sequence[int]) -> None:
        self.axes = tuple(axes)

    def __call__(self, weight: Any) -> Any:
        """The symmetric part of the weight."""
        return (weight + keras.ops.flip(weight, self.axes)) / 2

    def get_config(self) -> dict[str, Any]:
        """The arguments from which Keras rebuilds the constraint."""
        return {"axes": self.axes}


def is_mirrored(model: keras.Model) -> bool:
    """Whether the network gives the same output for a face and its mirror image by construction."""
    return any(isinstance(variable.constraint, MirrorSymmetric) for variable in model.trainable_variables)


def mirror_symmetric(model: keras.Model) -> None:
    """Make the weights of a mirrored network, and the statistics of its batch norms, exactly symmetric.

    The optimizer applies a constraint after each step, but neither to averaged weights nor to batch-norm statistics.
    """
    for variable in model.trainable_variables:
        if isinstance(variable.constraint, MirrorSymmetric):
            variable.assign(variable.constraint(variable))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization) and isinstance(layer.gamma.constraint, MirrorSymmetric):
            for statistic in (layer.moving_mean, layer.moving_variance):
                statistic.assign(layer.gamma.constraint(statistic))


def convolution(
    x: Any,
    channels: int,
    kernel: int,
    stride: int = 1,
    *,
    name: str,
    activation: bool = True,
    padding: str = "same",
    mirrored: bool = False,
) -> Any:
    """A convolution with batch norm, and with a ReLU unless `activation` is False.

    `mirrored`: the layer is mirror-equivariant (see `MirrorSymmetric`). ValueError if it is, and a stride of 2 would
    pick different columns of a map and of its mirror image, as it does for an even number of columns.
    """
    if mirrored and stride == 2 and x.shape[2] % 2 == 0:
        raise ValueError(
            f"mirrored: {name} halves a map of {x.shape[2]} columns; a mirrored network needs an odd number"
        )
    x = layers.Conv2D(
        channels,
        kernel,
        stride,
        padding=padding,
        use_bias=False,
        kernel_initializer="he_normal",
        kernel_constraint=MirrorSymmetric((1, 2, 3)) if mirrored else None,
        name=f"{name}_conv",
    )(x)
    reflected = MirrorSymmetric((0,)) if mirrored else None
    x = layers.BatchNormalization(gamma_constraint=reflected, beta_constraint=reflected, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if activation else x


def _residual(x: Any, channels: int, stride: int, *, name: str, mirrored: bool) -> Any:
    shortcut = x
    if stride != 1 or x.shape[-1] != channels:
        shortcut = convolution(x, channels, 1, stride, name=f"{name}_shortcut", activation=False, mirrored=mirrored)
    y = convolution(x, channels, 3, stride, name=f"{name}_a", mirrored=mirrored)
    y = convolution(y, channels, 3, name=f"{name}_b", activation=False, mirrored=mirrored)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([y, shortcut]))


def _stages(
    x: Any, channels: Sequence[int], blocks: int | Sequence[int], *, first_stride: int = 2, mirrored: bool = False
) -> list[Any]:
    """The outputs of all stages. Each stage halves the map; the first one divides it by `first_stride`."""
    outputs = []
    counts = [blocks] * len(channels) if isinstance(blocks, int) else blocks
    for number, (width, count) in enumerate(zip(channels, counts, strict=True), 1):
        for block in range(count):
            stride = 1 if block else first_stride if number == 1 else 2
            x = _residual(x, width, stride, name=f"stage{number}_block{block + 1}", mirrored=mirrored)
        outputs.append(x)
    return outputs


@keras.saving.register_keras_serializable("facexp")
class SoftArgmax(layers.Layer):  # type: ignore[misc]
    """Layer from heatmap logits (N, H, W, K) to expected positions (N, K, 2) under the maps' softmax.

    Positions are x and y in pixels of a square crop with `size` pixels a side.

    Formula: integral regression, Sun et al., "Integral Human Pose Regression", ECCV 2018.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def call(self, logits: Any) -> Any:
        """Return the expectation over the map; the position of a cell is the centre of its block of crop pixels."""
        height, width, points = logits.shape[1:]
        cell = self.size / width
        columns = keras.ops.tile(keras.ops.arange(width, dtype="float32"), [height])
        rows = keras.ops.repeat(keras.ops.arange(height, dtype="float32"), width)
        grid = (keras.ops.stack([columns, rows], axis=1) + 0.5) * cell - 0.5
        probability = keras.ops.softmax(keras.ops.reshape(logits, (-1, height * width, points)), axis=1)
        return keras.ops.matmul(keras.ops.transpose(probability, (0, 2, 1)), grid)

    def get_config(self) -> dict[str, Any]:
        """The arguments from which Keras rebuilds the layer."""
        return {**super().get_config(), "size": self.size}


def keypoint_network(
    size: int = 96,
    stem: int = 24,
    stages: Sequence[int] = (48, 96, 160),
    blocks: int | Sequence[int] = 2,
    head: int = 64,
    stem_stride: Literal[2, 4] = 2,
) -> keras.Model:
    """A residual network for the 15 points: uint8 (N, size, size, 1) -> float32 (N, 15, 2) in crop pixels.

    The stages' maps are upsampled and merged at a quarter of the crop's resolution, where one heatmap per point gives
    the point's position by soft-argmax. A dense offset from the pooled last stage is added, so that a point can lie
    outside the crop, which the heatmaps do not cover.

    `blocks`: the number of blocks, for all stages or one for each. `stem_stride`: with 2, the first convolution is 3x3
    and halves the crop's sides, and the first stage halves them again; with 4, the first convolution is 7x7 and divides
    the sides by four at once, which saves the largest maps.
    """
    if stem_stride not in (2, 4):
        raise ValueError(f"stem_stride must be 2 or 4, got {stem_stride}")
    image = keras.Input((size, size, 1), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255, name="scale")(image)
    x = convolution(x, stem, 2 * stem_stride - 1, stem_stride, name="stem")
    maps = _stages(x, stages, blocks, first_stride=4 // stem_stride)
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
    mirrored: bool = False,
) -> keras.Model:
    """A residual network for the emotion: uint8 (N, size, size, 1) -> logits (N, classes) of each head, by its name.

    There is one head per labelling. The outermost `margin` pixels are cropped inside the graph, because a shifted
    training crop has only replicated border pixels there. `mirrored`: a face and its mirror image get the same output
    by construction. The first convolution is then 4x4 without padding, so that the strides meet maps of 41, 21 and 11
    columns: an odd number, with a column in the middle.
    """
    image = keras.Input((size, size, 1), dtype="uint8", name="image")
    x = layers.Cropping2D(margin, name="crop")(image)
    x = layers.Rescaling(1 / 255, name="scale")(x)
    if mirrored:
        x = convolution(x, stem, 4, padding="valid", name="stem", mirrored=True)
    else:
        x = convolution(x, stem, 3, name="stem")
    x = _stages(x, stages, blocks, mirrored=mirrored)[-1]
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    reflected = MirrorSymmetric((0,)) if mirrored else None
    outputs = {
        head: layers.Dense(classes, kernel_constraint=reflected, name=head, dtype="float32")(x) for head in heads
    }
    return keras.Model(image, outputs, name="emotion")


def with_temperatures(model: keras.Model, temperatures: dict[str, float]) -> keras.Model:
    """The emotion network with each head's logits divided by its temperature, inside the graph."""
    outputs = {
        name: layers.Rescaling(1 / temperatures[name], name=f"{name}_temperature")(logits)
        for name, logits in model.output.items()
    }
    return keras.Model(model.input, outputs, name=model.name)
