"""Which numbers a network computes with: bfloat16, or float32 where bfloat16 is slow."""

from __future__ import annotations

import math
import time
from functools import cache
from pathlib import Path

import keras
import numpy as np

from facexp_train.config import Dtype, TrainConfig

_CROPS, _SIDE, _CHANNELS = 8, 16, 64
"""The convolution that is timed: number of crops, and the side and channels of their maps."""
_SLOW = 1.5
"""The ratio of times from which bfloat16 counts as slow. A GPU takes as long for so small a convolution in either, a
processor without instructions for bfloat16 five to nine times as long."""


def chosen_dtype(config: TrainConfig, out: Path, resume: bool) -> Dtype:
    """The dtype of a run in the directory `out`: that of the configuration, and "auto" decided.

    A resumed run keeps what it has. Any other computes in bfloat16, unless a training step takes far longer in it here.
    """
    if config.dtype != "auto":
        return config.dtype
    if resume and (out / "config.json").is_file():
        return TrainConfig.from_run(out).dtype
    slow = _step_seconds("mixed_bfloat16") > _SLOW * _step_seconds("float32")
    return "float32" if slow else "mixed_bfloat16"


@cache
def _step_seconds(dtype: Dtype) -> float:
    """How long a training step of one convolution takes at least.

    The forward pass alone tells nothing: without instructions for bfloat16, only the gradients take 30 times as long.
    """
    layer = keras.layers.Conv2D(_CHANNELS, 3, padding="same", data_format="channels_last", dtype=dtype)
    model = keras.Sequential([keras.Input((_SIDE, _SIDE, _CHANNELS)), layer])
    model.compile("sgd", "mse", jit_compile=False)
    maps = np.ones((_CROPS, _SIDE, _SIDE, _CHANNELS), np.float32)
    least = math.inf
    # the first step also compiles the network
    for _ in range(5):
        start = time.perf_counter()
        model.train_on_batch(maps, maps)
        least = min(least, time.perf_counter() - start)
    return least
