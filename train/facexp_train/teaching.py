"""What a network takes over from its teachers: their word for each face, and the first one's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

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


def widen(small: keras.Model, large: keras.Model) -> None:
    """Give `large` the weights of `small`, a network of the same layers with fewer channels: it then answers the same.

    Channels that only `large` has keep their initial weights, but nothing that `small` has listens to them yet, so that
    they grow from there (after Chen et al., "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016, with
    new channels in the place of copies). DataError where the layers are others, or narrower.
    """
    names = [layer.name for layer in large.layers]
    if names != [layer.name for layer in small.layers]:
        raise DataError("grow: the network and its first teacher must have the same layers and differ in width alone")
    for old, new in zip(small.layers, large.layers, strict=True):
        for before, after in zip(old.variables, new.variables, strict=True):
            value = keras.ops.convert_to_numpy(before).astype(np.float32)
            grown = keras.ops.convert_to_numpy(after).astype(np.float32).copy()
            if any(wide < narrow for wide, narrow in zip(grown.shape, value.shape, strict=True)):
                raise DataError(f"grow: {new.name} is {grown.shape}, the first teacher's {value.shape}: it is narrower")
            if value.ndim > 1:
                # a matrix or kernel, inputs before outputs: an old output hears nothing of a new input
                grown[..., value.shape[-2] :, : value.shape[-1]] = 0
            grown[tuple(slice(0, length) for length in value.shape)] = value
            after.assign(grown)
