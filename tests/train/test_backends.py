"""Training with another backend of Keras, where it is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAINING_SCRIPT = """
import sys
from pathlib import Path
import keras, numpy as np
from facexp_train.fitting import fit
from facexp_train.config import TrainConfig

class Ones(keras.utils.PyDataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return np.ones((4, 1), np.float32), np.ones((4, 1), np.float32)

class Job:
    batches, losses, monitor, higher_is_better = Ones(), "mse", "val_error", False
    def build(self):
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="dense")])
    def begin(self, model):
        pass
    def validate(self, model):
        error = float(np.abs(model.predict(np.ones((4, 1)), verbose=0) - 1).mean())
        return fit.Validation({"val_error": error}, {})
    def finish(self, model):
        return model, {}
    def summary(self):
        return {}

out = Path(sys.argv[1])
(out / "answers").mkdir()
config = TrainConfig("keypoints", "nowhere", epochs=2, ema=0.5, dtype="float32")
print(fit.train(Job(), config, out, resume=False, quiet=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="TRAINING ON JAX IS NOT TESTED: no JAX here")
def test_weights_are_averaged_on_jax_too(tmp_path: Path) -> None:
    """Guards against arrays shared by the average and the network: JAX deletes them when the network predicts."""
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", TRAINING_SCRIPT, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 2
    assert (tmp_path / "model.keras").is_file()
