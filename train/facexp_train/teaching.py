"""What a network takes over from its teachers: their word for each face, and the first one's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from facexp.geometry import cut
from facexp_train import framing
from facexp_train.alignment import Shown
from facexp_train.config import Augmentation
from facexp_train.errors import DataError
from facexp_train.progress import progress_bar

Teach = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]
"""uint8 crops (N, S, S, 1) -> probabilities (N, C) by head."""

_VIEW = Augmentation(flip=0.5, rotation=6.0, scale=0.08, shift=0.03)
"""How far views of a face lie from each other; what the mean over them is worth stands in docs/experiments.md."""
_BATCH = 512


def mean_of(models: Sequence[keras.Model], heads: Sequence[str]) -> Teach:
    """The mean of the networks' probabilities."""

    def teach(crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        answers = [model.predict_on_batch(crops) for model in models]
        return {head: np.mean([softmax(each[head], axis=1) for each in answers], axis=0) for head in heads}

    return teach


def over_views(
    teach: Teach, faces: Shown, views: int, seed: int, quiet: bool = False
) -> dict[str, NDArray[np.float32]]:
    """Probabilities (N, C) by head, the mean over that many views of each face.

    Half of the views are cut as the dataset cuts the face and half as the runtime does, where it is known how.
    """
    count = len(faces.images)
    rng = np.random.default_rng([seed, views])
    total: dict[str, NDArray[np.float64]] = {}
    with progress_bar(views * count, "asking the teachers", "crop", quiet=quiet) as bar:
        for view in range(views):
            jitter = framing.jitter_matrices(rng, count, faces.size, _VIEW)
            cuts = faces.cuts(np.arange(count), np.full(count, view % 2 == 1))
            matrices = framing.compose(jitter, cuts)
            for start in range(0, count, _BATCH):
                rows = slice(start, start + _BATCH)
                crops = cut(list(faces.images[rows]), list(matrices[rows]), faces.size)
                for head, chances in teach(crops).items():
                    total.setdefault(head, np.zeros((count, chances.shape[1])))[rows] += chances
                bar.update(len(crops))
    return {head: (values / views).astype(np.float32) for head, values in total.items()}


def told_by_votes(votes: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """How probable each label is for a face, to judge by its FER+ votes alone: float32 (N, classes), all zero without.

    A logistic regression of the labels (N,) on each face's shares of its votes (N, 10), fitted on these very faces. The
    network never sees votes, but what teaches it may know more than it is shown (Vapnik and Vashist, "A new learning
    paradigm: Learning using privileged information", Neural Networks 2009).
    """
    rated = votes.any(axis=1) & (labels >= 0)
    shares = votes[rated] / votes[rated].sum(axis=1, keepdims=True)
    told = np.zeros((len(votes), classes), dtype=np.float32)
    fitted = LogisticRegression(C=10, max_iter=3000).fit(shares, labels[rated])
    told[np.ix_(rated, fitted.classes_)] = fitted.predict_proba(shares)
    return told


def inherit(elder: keras.Model, young: keras.Model) -> None:
    """Give `young` the weights of `elder`, a network of the same layers with more or fewer channels.

    With more it answers the same: new channels keep their initial weights, but nothing that was there listens to them
    yet, so that they grow from there (after Chen et al., "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR
    2016, with new channels in the place of copies). With fewer those remain that batch norm makes loudest (Liu et al.,
    "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017), channels that are added to each
    other being judged together; what is lost has to be learnt again. DataError where the layers are others, where a map
    of another width is laid out in a row, or where a narrower layer has no batch norm.
    """
    if [layer.name for layer in young.layers] != [layer.name for layer in elder.layers]:
        raise DataError("grow: the network and its first teacher must have the same layers and differ in width alone")
    streams = _streams(elder)
    loudness = _loudness(elder, streams)
    kept: dict[str, NDArray[np.intp] | None] = {}
    for old, new in zip(elder.layers, young.layers, strict=True):
        heard = next((kept[name] for name in _sources(old)), None)
        if isinstance(old, keras.layers.Flatten) and old.input.shape != new.input.shape:
            raise DataError(f"grow: {old.name} lays a map out in a row; its width must be the first teacher's")
        kept[old.name] = _loudest(loudness.get(streams[old.name]), old, new) if _has_kernel(old) else heard
        for before, after in zip(old.weights, new.weights, strict=True):
            value = keras.ops.convert_to_numpy(before).astype(np.float32)
            grown = keras.ops.convert_to_numpy(after).astype(np.float32).copy()
            if value.ndim > 1:
                # a matrix or kernel, inputs before outputs: an old output hears nothing of a new input
                value = _part(value, heard, -2)
                grown[..., value.shape[-2] :, : value.shape[-1]] = 0
            value = _part(value, kept[old.name], -1)
            grown[tuple(slice(0, length) for length in value.shape)] = value
            after.assign(grown)


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
