"""The numbers that a run computes with: chosen once for its machine, and kept."""

import json
from pathlib import Path

import keras
import pytest

import drawn
from facexp_train import run
from facexp_train.config import TrainConfig
from facexp_train.fitting import precision

SMALL = ["network.stem=4", "network.stages=[8]", "network.blocks=1", "network.head=8", "batch_size=8", "epochs=1"]


def test_the_faster_numbers_are_chosen_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against ten times the training time on a processor without bfloat16, and a resumed run that changes."""
    seconds = {"float32": 1.0, "mixed_bfloat16": 2.0}
    monkeypatch.setattr(precision, "_step_seconds", lambda dtype: seconds[dtype])
    out = tmp_path / "run"
    drawn.write_training(tmp_path / "training.csv", 40)
    config = run.configure("keypoints", str(tmp_path / "training.csv"), changes=SMALL)
    assert config.dtype == "auto"
    run.start(config, out, quiet=True)
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"
    # as if it were continued on another machine; a GPU takes as long for so little in either
    for seconds["mixed_bfloat16"] in (0.5, 1.2):
        assert precision.chosen_dtype(config, tmp_path / "new", resume=False) == "mixed_bfloat16"
    (out / "index.html").unlink()
    run.start(config, out, resume=True, quiet=True)
    assert TrainConfig.from_run(out).dtype == "float32"


def test_a_configuration_can_choose_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(_: str) -> float:
        pytest.fail("timed, although the configuration decides")

    monkeypatch.setattr(precision, "_step_seconds", unwanted)
    for dtype in ("float32", "mixed_bfloat16"):
        config = TrainConfig.from_dict({"task": "keypoints", "data": "nowhere", "dtype": dtype}, "test")
        assert precision.chosen_dtype(config, tmp_path, resume=False) == dtype


def test_a_training_step_is_timed_in_both() -> None:
    assert precision._step_seconds("float32") > 0
    assert precision._step_seconds("mixed_bfloat16") > 0


def test_a_network_trained_in_bfloat16_is_saved_in_float32(tmp_path: Path) -> None:
    """Guards the export, which would keep the casts to bfloat16."""
    drawn.write_training(tmp_path / "training.csv", 20)
    changes = [*SMALL, "dtype=mixed_bfloat16"]
    config = run.configure("keypoints", str(tmp_path / "training.csv"), changes=changes)
    model = keras.saving.load_model(run.start(config, tmp_path / "run", quiet=True), compile=False)
    assert {variable.dtype for variable in model.variables} == {"float32"}
    assert model.get_layer("stem_conv").compute_dtype == "float32"
