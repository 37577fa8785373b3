"""How a network starts with another one's weights: a wider one, a narrower one, or a mirrored one."""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray

from facexp_train.errors import DataError
from facexp_train.networks import is_mirrored, mirror_symmetric


def inherit(elder: keras.Model, young: keras.Model, faces: NDArray[np.uint8]) -> None:
    """Give `young` the weights of `elder`, a network of the same layers with more or fewer channels, or not mirrored.

    With more it answers the same: new channels keep their initial weights, but nothing that was there listens to them
    yet, so that they grow from there (after Chen et al., "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR
    2016, with new channels in the place of copies). With fewer those remain that batch norm makes loudest (Liu et al.,
    "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017), channels that are added to each
    other being judged together; what is lost has to be learnt again. A mirrored network starts from one of its widths
    that is not: channels that answer `faces` (N, S, S, 1) most like each other's mirror image become partners, and each
    weight the mean of what it is and what its partner's is. DataError where the layers or their kernels' sizes are
    others, where a map of another width is laid out in a row, where a narrower layer has no batch norm, or a mirrored
    network has other widths.
    """
    if [layer.name for layer in young.layers] != [layer.name for layer in elder.layers]:
        raise DataError("grow: the network and its first teacher must have the same layers and differ in width alone")
    streams = _streams(elder)
    loudness = _loudness(elder, streams)
    mirrored = is_mirrored(young)
    partners = _partners(elder, streams, faces) if mirrored and not is_mirrored(elder) else {}
    kept: dict[str, NDArray[np.intp] | None] = {}
    for old, new in zip(elder.layers, young.layers, strict=True):
        heard = next((kept[name] for name in _sources(old)), None)
        if isinstance(old, keras.layers.Flatten) and old.input.shape != new.input.shape:
            raise DataError(f"grow: {old.name} lays a map out in a row; its width must be the first teacher's")
        if mirrored and old.output.shape[-1] != new.output.shape[-1]:
            raise DataError(f"grow: a mirrored network starts from one of its widths; {old.name} has another")
        if not _has_kernel(old):
            kept[old.name] = heard
        elif partners:
            kept[old.name] = partners.get(streams[old.name])
        else:
            kept[old.name] = _loudest(loudness.get(streams[old.name]), old, new)
        for before, after in zip(old.weights, new.weights, strict=True):
            value = keras.ops.convert_to_numpy(before).astype(np.float32)
            grown = keras.ops.convert_to_numpy(after).astype(np.float32).copy()
            if value.ndim == 4 and value.shape[:2] != grown.shape[:2]:
                if not partners:
                    raise DataError(f"grow: {old.name} has kernels of another size than the first teacher's")
                value = _one_pixel_wider(value)
            if value.ndim > 1:
                # a matrix or kernel, inputs before outputs: an old output hears nothing of a new input
                value = _part(value, heard, -2)
                grown[..., value.shape[-2] :, : value.shape[-1]] = 0
            value = _part(value, kept[old.name], -1)
            grown[tuple(slice(0, length) for length in value.shape)] = value
            after.assign(grown)
    mirror_symmetric(young)


def _one_pixel_wider(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of a kernel's four places in one whose sides are a pixel longer."""
    places = [((y, 1 - y), (x, 1 - x), (0, 0), (0, 0)) for y in (0, 1) for x in (0, 1)]
    mean: NDArray[np.float32] = np.mean([np.pad(kernel, place) for place in places], axis=0)
    return mean


def _partners(model: keras.Model, streams: dict[str, str], faces: NDArray[np.uint8]) -> dict[str, NDArray[np.intp]]:
    """By stream, its channels so ordered that the first and the last are partners, the second and the last but one ...

    How well two channels go together is the correlation of one's maps of `faces` with the other's of the mirrored
    faces, mirrored back; the best pair comes first, then the best of what is left.
    """
    ends = {streams[layer.name]: layer for layer in model.layers if len(layer.output.shape) == 4}
    looking = keras.Model(model.input, {name: layer.output for name, layer in ends.items()})
    seen, mirrored = (looking.predict(crops, batch_size=64, verbose=0) for crops in (faces, faces[:, :, ::-1]))
    return {name: _paired(_agreement(maps, mirrored[name][:, :, ::-1])) for name, maps in seen.items()}


def _agreement(maps: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, C) correlations of the channels of maps (N, H, W, C), the same both ways."""
    rows = [each.reshape(-1, each.shape[-1]).astype(np.float32) for each in (maps, others)]
    first, second = ((each - each.mean(axis=0)) / (each.std(axis=0) + 1e-5) for each in rows)
    correlation: NDArray[np.float32] = first.T @ second / len(first)
    both: NDArray[np.float32] = (correlation + correlation.T) / np.float32(2)
    return both


def _paired(agreement: NDArray[np.float32]) -> NDArray[np.intp]:
    free = set(range(len(agreement)))
    front: list[int] = []
    back: list[int] = []
    for first, second in zip(*np.unravel_index(np.argsort(-agreement, axis=None), agreement.shape), strict=True):
        if first != second and {first, second} <= free:
            front.append(first)
            back.append(second)
            free -= {first, second}
    return np.array([*front, *free, *reversed(back)], dtype=np.intp)


def _sources(layer: keras.Layer) -> list[str]:
    """The names of the layers that this one hears."""
    heard = [] if isinstance(layer, keras.layers.InputLayer) else keras.tree.flatten(layer.input)
    return [tensor._keras_history.operation.name for tensor in heard]


def _has_kernel(layer: keras.Layer) -> bool:
    """Whether the layer's channels are new ones, each made of all that it hears."""
    return any(len(weight.shape) > 1 for weight in layer.weights)


def _part(values: NDArray[np.float32], channels: NDArray[np.intp] | None, axis: int) -> NDArray[np.float32]:
    return values if channels is None else values.take(channels, axis)


def _streams(model: keras.Model) -> dict[str, str]:
    """By layer, the one that its channels began in, the same for layers that are added to each other."""
    began: dict[str, str] = {}
    for layer in model.layers:
        heard = {began[name] for name in _sources(layer)}
        if not heard or _has_kernel(layer):
            began[layer.name] = layer.name
        else:
            began[layer.name] = min(heard)
            began |= {name: min(heard) for name, first in began.items() if first in heard}
    return began


def _loudness(model: keras.Model, streams: dict[str, str]) -> dict[str, NDArray[np.float32]]:
    """The squared scales of each stream's batch norms, added: (C,) by stream."""
    total: dict[str, NDArray[np.float32]] = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            stream = streams[layer.name]
            total[stream] = total.get(stream, 0) + keras.ops.convert_to_numpy(layer.gamma).astype(np.float32) ** 2
    return total


def _loudest(scales: NDArray[np.float32] | None, old: keras.Layer, new: keras.Layer) -> NDArray[np.intp] | None:
    """Which of a layer's channels remain, in their order; None: all."""
    before, after = old.output.shape[-1], new.output.shape[-1]
    if after >= before:
        return None
    if scales is None:
        raise DataError(
            f"grow: {old.name} has {after} channels, the first teacher's {before}, and no batch norm to judge by"
        )
    return np.sort(np.argsort(scales, kind="stable")[-after:])
