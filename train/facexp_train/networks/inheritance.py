"""Starting a network with the weights of another one that is narrower, wider or not mirrored."""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray

from facexp_train.errors import DataError
from facexp_train.networks.resnet import is_mirrored, mirror_symmetric


def inherit(source: keras.Model, target: keras.Model, faces: NDArray[np.uint8]) -> None:
    """Give `target` the weights of `source`. Both have the same layers; `target` is wider, narrower or mirrored.

    A wider `target` gives the same outputs as `source`: its additional channels keep their initial weights, but the
    weights of inherited channels for these inputs are 0 and grow in training (after Chen et al., "Net2Net: Accelerating
    Learning via Knowledge Transfer", ICLR 2016, with new channels instead of copies).

    A narrower `target` keeps the channels with the largest scales in batch norm (Liu et al., "Learning Efficient
    Convolutional Networks through Network Slimming", ICCV 2017); channels that are added to each other are judged
    together. What is lost must be learnt again.

    A mirrored `target` must have the widths of `source`. If `source` is not mirrored, those of its channels whose
    outputs for `faces` (N, S, S, 1) are most like each other's mirror image become partners, and each weight becomes
    the mean of itself and its partner's.

    DataError if the layers or kernel sizes differ, a map with another number of channels is flattened, a narrower layer
    has no batch norm, or a mirrored network has other widths.
    """
    if [layer.name for layer in target.layers] != [layer.name for layer in source.layers]:
        raise DataError("grow: the network and its first teacher must have the same layers and differ in width alone")
    streams = _streams(source)
    strengths = _strengths(source, streams)
    mirrored = is_mirrored(target)
    partners = _partners(source, streams, faces) if mirrored and not is_mirrored(source) else {}
    kept: dict[str, NDArray[np.intp] | None] = {}
    for old, new in zip(source.layers, target.layers, strict=True):
        kept_inputs = next((kept[name] for name in _sources(old)), None)
        if isinstance(old, keras.layers.Flatten) and old.input.shape != new.input.shape:
            raise DataError(f"grow: {old.name} flattens a map; its width must be the first teacher's")
        if mirrored and old.output.shape[-1] != new.output.shape[-1]:
            raise DataError(f"grow: a mirrored network starts from one of its widths; {old.name} has another")
        if not _has_kernel(old):
            kept[old.name] = kept_inputs
        elif partners:
            kept[old.name] = partners.get(streams[old.name])
        else:
            kept[old.name] = _strongest(strengths.get(streams[old.name]), old, new)
        for before, after in zip(old.weights, new.weights, strict=True):
            value = keras.ops.convert_to_numpy(before).astype(np.float32)
            grown = keras.ops.convert_to_numpy(after).astype(np.float32).copy()
            if value.ndim == 4 and value.shape[:2] != grown.shape[:2]:
                if not partners:
                    raise DataError(f"grow: {old.name} has kernels of another size than the first teacher's")
                value = _one_pixel_wider(value)
            if value.ndim > 1:
                # a matrix or kernel (..., inputs, outputs): inherited outputs ignore the new inputs at first
                value = _part(value, kept_inputs, -2)
                grown[..., value.shape[-2] :, : value.shape[-1]] = 0
            value = _part(value, kept[old.name], -1)
            grown[tuple(slice(0, length) for length in value.shape)] = value
            after.assign(grown)
    mirror_symmetric(target)


def _one_pixel_wider(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the four positions of a kernel (H, W, C, D) inside one of (H + 1, W + 1, C, D)."""
    places = [((y, 1 - y), (x, 1 - x), (0, 0), (0, 0)) for y in (0, 1) for x in (0, 1)]
    mean: NDArray[np.float32] = np.mean([np.pad(kernel, place) for place in places], axis=0)
    return mean


def _partners(model: keras.Model, streams: dict[str, str], faces: NDArray[np.uint8]) -> dict[str, NDArray[np.intp]]:
    """The order of channels by stream: the first and last are partners, the second and the last but one, and so on.

    Two channels agree by the correlation of one's maps for `faces` with the other's maps for the mirrored faces,
    mirrored back. The best pair is chosen first, then the best of the remaining channels.
    """
    ends = {streams[layer.name]: layer for layer in model.layers if len(layer.output.shape) == 4}
    inner = keras.Model(model.input, {name: layer.output for name, layer in ends.items()})
    plain, mirrored = (inner.predict(crops, batch_size=64, verbose=0) for crops in (faces, faces[:, :, ::-1]))
    return {name: _paired(_agreement(maps, mirrored[name][:, :, ::-1])) for name, maps in plain.items()}


def _agreement(maps: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Symmetric (C, C) correlations between the channels of two sets of maps (N, H, W, C)."""
    rows = [each.reshape(-1, each.shape[-1]).astype(np.float32) for each in (maps, others)]
    first, second = ((each - each.mean(axis=0)) / (each.std(axis=0) + 1e-5) for each in rows)
    correlation: NDArray[np.float32] = first.T @ second / len(first)
    both: NDArray[np.float32] = (correlation + correlation.T) / np.float32(2)
    return both


def _paired(agreement: NDArray[np.float32]) -> NDArray[np.intp]:
    """The order of channels (C,) for agreements (C, C): partners from the ends inwards, unpaired ones in the middle."""
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
    """The names of the layers that give this layer its inputs."""
    inputs = [] if isinstance(layer, keras.layers.InputLayer) else keras.tree.flatten(layer.input)
    return [tensor._keras_history.operation.name for tensor in inputs]


def _has_kernel(layer: keras.Layer) -> bool:
    """Whether the layer makes new channels, each of all its input channels."""
    return any(len(weight.shape) > 1 for weight in layer.weights)


def _part(values: NDArray[np.float32], channels: NDArray[np.intp] | None, axis: int) -> NDArray[np.float32]:
    return values if channels is None else values.take(channels, axis)


def _streams(model: keras.Model) -> dict[str, str]:
    """By layer, the layer that made its channels, its "stream"; layers that are added to each other share one."""
    origins: dict[str, str] = {}
    for layer in model.layers:
        inputs = {origins[name] for name in _sources(layer)}
        if not inputs or _has_kernel(layer):
            origins[layer.name] = layer.name
        else:
            origins[layer.name] = min(inputs)
            origins |= {name: min(inputs) for name, first in origins.items() if first in inputs}
    return origins


def _strengths(model: keras.Model, streams: dict[str, str]) -> dict[str, NDArray[np.float32]]:
    """The sum of the squared scales of each stream's batch norms: (C,) by stream."""
    total: dict[str, NDArray[np.float32]] = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            stream = streams[layer.name]
            total[stream] = total.get(stream, 0) + keras.ops.convert_to_numpy(layer.gamma).astype(np.float32) ** 2
    return total


def _strongest(scales: NDArray[np.float32] | None, old: keras.Layer, new: keras.Layer) -> NDArray[np.intp] | None:
    """The indices of a layer's channels that remain, in ascending order; None if all do."""
    before, after = old.output.shape[-1], new.output.shape[-1]
    if after >= before:
        return None
    if scales is None:
        raise DataError(
            f"grow: {old.name} has {after} channels, the first teacher's {before}, and no batch norm to judge by"
        )
    return np.sort(np.argsort(scales, kind="stable")[-after:])
