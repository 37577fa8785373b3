"""`start_share`: the weights that are scored and saved lie between the starting weights and the trained ones."""

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
from facexp_train.fitting.run_directory import held_run_directory

Weights = list[NDArray[np.float32]]


class Noise(keras.utils.PyDataset):  # type: ignore[misc]
    epoch = 0

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        inputs = np.random.default_rng([self.epoch, index]).normal(3, 2, (8, 2)).astype(np.float32)
        return inputs, inputs[:, :1] * 2


class RecordingJob:
    """A task with a small batch-norm network. `scored` has the weights of each validation; `failing_epoch` raises."""

    monitor, higher_is_better, losses = "val_error", False, "mse"

    def __init__(self, failing_epoch: int = 0) -> None:
        self.batches = Noise()
        self.scored: list[Weights] = []
        self.failing_epoch = failing_epoch

    def build(self) -> keras.Model:
        image = keras.Input((2,))
        hidden = keras.layers.BatchNormalization(momentum=0.5)(keras.layers.Dense(3, use_bias=False)(image))
        return keras.Model(image, keras.layers.Dense(1)(hidden))

    def begin(self, model: keras.Model) -> None:
        pass

    def validate(self, model: keras.Model) -> fit.Validation:
        if self.batches.epoch + 1 == self.failing_epoch:
            raise RuntimeError("a power cut")
        self.scored.append(model.get_weights())
        # each epoch is better than the last
        return fit.Validation({"val_error": 1 / (1 + self.batches.epoch)}, {"none": np.zeros(1, np.float32)})

    def finish(self, model: keras.Model) -> tuple[keras.Model, dict[str, object]]:
        return model, {}

    def summary(self) -> dict[str, object]:
        return {}


def trained(job: RecordingJob, config: TrainConfig, out: Path, resume: bool = False) -> Weights:
    """Train, and return the weights of the saved model."""
    with held_run_directory(config, out, resume):
        path = fit.train(job, config, out, resume, quiet=True)
    weights: Weights = keras.saving.load_model(path).get_weights()
    return weights


def differences(first: Weights, second: Weights) -> list[float]:
    return [float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True)]


def test_saved_weights_lie_between_start_and_end(tmp_path: Path) -> None:
    """Guards against training on from the mixed weights; also batch norm's statistics, and --resume."""
    common = {"task": "keypoints", "data": "nowhere", "dtype": "float32", "learning_rate": 0.01, "ema": 0.5}
    start = trained(RecordingJob(), TrainConfig(**common, epochs=1), tmp_path / "elder")
    later = {**common, "epochs": 3, "seed": 5, "start_from": str(tmp_path / "elder")}
    whole, part = RecordingJob(), RecordingJob()
    trained(whole, TrainConfig(**later), tmp_path / "whole")
    config = TrainConfig(**later, start_share=0.25)
    saved = trained(part, config, tmp_path / "part")
    for between, end in zip(part.scored, whole.scored, strict=True):
        assert min(differences(end, start)) > 1e-3
        expected = [np.float32(0.25) * a + np.float32(0.75) * b for a, b in zip(start, end, strict=True)]
        assert max(differences(between, expected)) < 1e-6
    assert max(differences(saved, part.scored[-1])) == 0
    # teachers, and runs that start from this one, load the scored weights too
    model = part.build()
    fit.load_best(tmp_path / "part", model)
    assert max(differences(model.get_weights(), saved)) == 0

    with pytest.raises(RuntimeError, match="power cut"):
        trained(RecordingJob(failing_epoch=2), config, tmp_path / "resumed")
    assert max(differences(trained(RecordingJob(), config, tmp_path / "resumed", resume=True), saved)) == 0


def test_start_share_needs_starting_weights() -> None:
    """Guards against a share of random weights."""
    with pytest.raises(DataError, match=r"start_share: needs weights to start with; set start_from, or grow"):
        run.configure("emotion", "fer2013.csv", changes=["start_share=0.5"])
    with pytest.raises(DataError, match=r"start_share must be between 0 and 1, got 1\.5"):
        run.configure("emotion", "fer2013.csv", changes=["start_share=1.5"])


def test_advice_to_start_from_a_run_fits_a_network_that_grew() -> None:
    """Guards the advice after a failed run: a network starts from one set of weights, so `grow` must be off."""
    grown = {"teachers": [{}], "grow": True}
    for more, words in (({}, ""), (grown, " --set grow=false")):
        config = TrainConfig.from_dict({"task": "emotion", "data": "data", **more}, "")
        assert fit._start_options(Path("a run"), config) == f"--set start_from='a run'{words}"


def test_a_network_is_not_validated_on_faces_that_its_start_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the choice of the best epoch on data without splits, which another seed divides differently."""
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
    # a resumed run does not read its start again, and other data has other faces
    assert start(data, "seed=1", resume=True)
    shutil.copyfile(data, tmp_path / "other.csv")
    assert start(tmp_path / "other.csv", "seed=1")
