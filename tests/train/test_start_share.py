"""A network that goes on from another and ships part of the way: what is scored and kept lies between the two."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

import drawn
from facexp_train import run
from facexp_train.config import TrainConfig
from facexp_train.errors import DataError
from facexp_train.fitting import fit
from facexp_train.fitting.run_directory import taken

Weights = list[NDArray[np.float32]]


class Noise(keras.utils.PyDataset):  # type: ignore[misc]
    epoch = 0

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        inputs = np.random.default_rng([self.epoch, index]).normal(3, 2, (8, 2)).astype(np.float32)
        return inputs, inputs[:, :1] * 2


class Watched:
    """A small network with batch norm. `scored` takes the weights of each validation; that of epoch `fails` fails."""

    monitor, higher_is_better, losses = "val_error", False, "mse"

    def __init__(self, fails: int = 0) -> None:
        self.batches = Noise()
        self.scored: list[Weights] = []
        self.fails = fails

    def build(self) -> keras.Model:
        image = keras.Input((2,))
        hidden = keras.layers.BatchNormalization(momentum=0.5)(keras.layers.Dense(3, use_bias=False)(image))
        return keras.Model(image, keras.layers.Dense(1)(hidden))

    def begin(self, model: keras.Model) -> None:
        pass

    def validate(self, model: keras.Model) -> fit.Validation:
        if self.batches.epoch + 1 == self.fails:
            raise RuntimeError("a power cut")
        self.scored.append(model.get_weights())
        # each epoch is better than the last
        return fit.Validation({"val_error": 1 / (1 + self.batches.epoch)}, {"none": np.zeros(1, np.float32)})

    def finish(self, model: keras.Model) -> tuple[keras.Model, dict[str, object]]:
        return model, {}

    def summary(self) -> dict[str, object]:
        return {}


def trained(job: Watched, config: TrainConfig, out: Path, resume: bool = False) -> Weights:
    """The weights of what ships."""
    with taken(config, out, resume):
        path = fit.train(job, config, out, resume, quiet=True)
    weights: Weights = keras.saving.load_model(path).get_weights()
    return weights


def apart(first: Weights, second: Weights) -> list[float]:
    return [float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True)]


def test_what_ships_lies_between_start_and_end(tmp_path: Path) -> None:
    """Guards the weights that go on, which stay what training made of them, batch norm's statistics, and --resume."""
    common = {"task": "keypoints", "data": "nowhere", "dtype": "float32", "learning_rate": 0.01, "ema": 0.5}
    elder = trained(Watched(), TrainConfig(**common, epochs=1), tmp_path / "elder")
    later = {**common, "epochs": 3, "seed": 5, "start_from": str(tmp_path / "elder")}
    whole, part = Watched(), Watched()
    trained(whole, TrainConfig(**later), tmp_path / "whole")
    config = TrainConfig(**later, start_share=0.25)
    shipped = trained(part, config, tmp_path / "part")
    for between, end in zip(part.scored, whole.scored, strict=True):
        assert min(apart(end, elder)) > 1e-3
        expected = [np.float32(0.25) * a + np.float32(0.75) * b for a, b in zip(elder, end, strict=True)]
        assert max(apart(between, expected)) < 1e-6
    assert max(apart(shipped, part.scored[-1])) == 0
    # a teacher's word, and a run that goes on from this one, are what is scored too
    model = part.build()
    fit.load_best(tmp_path / "part", model)
    assert max(apart(model.get_weights(), shipped)) == 0

    with pytest.raises(RuntimeError, match="power cut"):
        trained(Watched(fails=2), config, tmp_path / "resumed")
    assert max(apart(trained(Watched(), config, tmp_path / "resumed", resume=True), shipped)) == 0


def test_it_needs_a_start() -> None:
    """Guards a share of random weights."""
    with pytest.raises(DataError, match=r"start_share: needs weights to start with; set start_from, or grow"):
        run.configure("emotion", "fer2013.csv", changes=["start_share=0.5"])
    with pytest.raises(DataError, match=r"start_share must be between 0 and 1, got 1\.5"):
        run.configure("emotion", "fer2013.csv", changes=["start_share=1.5"])


def test_advice_to_start_from_a_run_fits_a_network_that_grew() -> None:
    """Guards the line that is given after a run has failed: a network starts from one place only."""
    grown = {"teachers": [{}], "grow": True}
    for more, words in (({}, ""), (grown, " --set grow=false")):
        config = TrainConfig.from_dict({"task": "emotion", "data": "data", **more}, "")
        assert fit._start_options(Path("a run"), config) == f"--set start_from='a run'{words}"


def test_what_a_network_has_learnt_is_not_held_out_from_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the choice of an epoch on data without splits, which another seed divides in another way."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(run, "_train", lambda *_: tmp_path / "trained")
    data, first = tmp_path / "emotion.csv", tmp_path / "first"
    drawn.write_five(data, 60)
    first.mkdir()
    (first / "config.json").write_text(run.configure("emotion", str(data)).to_json())

    def start(data: Path, *changes: str, resume: bool = False) -> Path:
        config = run.configure("emotion", str(data), changes=[f"start_from={first}", *changes])
        return run.start(config, tmp_path / "second", resume, quiet=True)

    assert start(data) == tmp_path / "trained"
    with pytest.raises(DataError, match=r"names no splits, .* seeds 1 and 0: one was trained on faces"):
        start(data, "seed=1")
    # what it has read already it does not read again, and other data are other faces
    assert start(data, "seed=1", resume=True)
    shutil.copyfile(data, tmp_path / "other.csv")
    assert start(tmp_path / "other.csv", "seed=1")
