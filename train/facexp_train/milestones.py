"""The epochs of a run that are worth a look, and what the network answered in each: files in the run directory."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp_train.config import TrainConfig
from facexp_train.stored import read_arrays

_SPREAD = 5


def milestones(config: TrainConfig) -> set[int]:
    """The first epoch, counted from 1, the last, those that lie evenly between them, five in all, and the first whose
    crops are changed in the settled way.
    """
    spread = {round(epoch) for epoch in np.linspace(1, config.epochs, _SPREAD)}
    settled = config.epochs - config.settle_epochs + 1
    return spread | ({max(1, settled)} if config.settle_epochs else set())


def answers_path(out: Path, epoch: int) -> Path:
    """The file in the run directory `out` with what was answered to the validation faces, arrays by output name."""
    return out / "answers" / f"{epoch:04d}.npz"


def drop_answers(out: Path, kept: Collection[int]) -> None:
    """Delete the answers of all other epochs."""
    for epoch in _written(out):
        if epoch not in kept:
            answers_path(out, epoch).unlink()


def read_answers(out: Path) -> dict[int, dict[str, NDArray[np.float32]]]:
    """What was answered in each epoch that was kept, in their order."""
    mend = "delete it and go on with --resume"
    return {epoch: read_arrays(answers_path(out, epoch), mend) for epoch in _written(out)}


def _written(out: Path) -> list[int]:
    return sorted(int(path.stem) for path in (out / "answers").glob("[0-9]*.npz"))
