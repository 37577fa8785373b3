"""The epochs of a run that its page shows, and the network's validation outputs in each: files in the run directory."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp_train.config import TrainConfig
from facexp_train.stored import read_arrays

_SPREAD = 5


def milestones(config: TrainConfig) -> set[int]:
    """The epochs, counted from 1, that the run's page shows.

    These are five evenly spaced ones, among them the first and the last, and the first of the `settle_epochs`.
    """
    spread = {round(epoch) for epoch in np.linspace(1, config.epochs, _SPREAD)}
    settled = config.epochs - config.settle_epochs + 1
    return spread | ({max(1, settled)} if config.settle_epochs else set())


def answers_path(out: Path, epoch: int) -> Path:
    """The file in the run directory `out` with an epoch's outputs for the validation faces: arrays by output name."""
    return out / "answers" / f"{epoch:04d}.npz"


def drop_answers(out: Path, kept: Collection[int]) -> None:
    """Delete the answers of all epochs that are not in `kept`."""
    for epoch in _written(out):
        if epoch not in kept:
            answers_path(out, epoch).unlink()


def read_answers(out: Path) -> dict[int, dict[str, NDArray[np.float32]]]:
    """The outputs of each saved epoch, as arrays by output name, in the order of the epochs; DataError if damaged."""
    remedy = "delete it and continue with --resume"
    return {epoch: read_arrays(answers_path(out, epoch), remedy) for epoch in _written(out)}


def _written(out: Path) -> list[int]:
    return sorted(int(path.stem) for path in (out / "answers").glob("[0-9]*.npz"))
