"""The training loop: it learns, it goes on after a kill where it stopped, and it never mixes two runs."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from facexp.geometry import KEYPOINTS
from facexp_train import fit, run
from facexp_train.config import TrainConfig
from facexp_train.errors import DataError

SMALL = ["network.stem=8", "network.stages=[8,16]", "network.blocks=1", "network.head=8", "batch_size=16"]
PLAIN = [f"augmentation.{name}=0" for name in ("noise", "blur", "gamma", "erasing", "contrast", "brightness")]


@pytest.fixture(scope="module")
def faces_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kaggle's format: 160 drawn faces, whose dark eyes and mouth tell where all points are."""
    rng = np.random.default_rng(0)
    shape = np.stack([rng.uniform(-24, 24, 15), rng.uniform(-18, 26, 15)], axis=1)
    shape[0], shape[1] = (16, -12), (-16, -12)
    ys, xs = np.mgrid[:96, :96]
    rows, images = [], []
    for _ in range(160):
        points = shape * rng.uniform(0.9, 1.1) + 48 + rng.uniform(-8, 8, 2)
        image = np.full((96, 96), 200.0)
        for x, y in points[:3]:
            image -= 150 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 20)
        rows.append(points.ravel())
        images.append(" ".join(map(str, np.clip(image, 0, 255).astype(int).ravel())))
    columns = [f"{name}_{axis}" for name in KEYPOINTS for axis in "xy"]
    path = tmp_path_factory.mktemp("kaggle") / "training.csv"
    pd.DataFrame(rows, columns=columns).round(3).assign(Image=images).to_csv(path, index=False)
    return path


def command(data: Path, out: Path, *more: str) -> list[str]:
    changes = [part for change in [*SMALL, *PLAIN, "epochs=5", "ema=0.9"] for part in ("--set", change)]
    facexp = str(Path(sys.executable).with_name("facexp"))
    start = [facexp, "train", "keypoints", str(data), "--out", str(out)]
    return [*start, *changes, *more]


def log(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_killed_run_resumes_where_it_stopped(faces_csv: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(faces_csv, whole), check=True, capture_output=True)
    process = subprocess.Popen(command(faces_csv, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint.npz").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = len(log(killed))
    assert 1 <= before < 5
    assert not (killed / "model.keras").exists()
    subprocess.run(command(faces_csv, killed, "--resume"), check=True, capture_output=True)
    rows, expected = log(killed), log(whole)
    assert [row["epoch"] for row in rows] == [row["epoch"] for row in expected]
    # same seed, same order, same crops, same optimizer state: the losses meet again, but for threads' rounding
    for row, other in zip(rows, expected, strict=True):
        assert float(row["loss"]) == pytest.approx(float(other["loss"]), rel=0.02)
    assert json.loads((killed / "summary.json").read_text())["epochs_run"] == 5


def test_training_learns_and_leaves_a_whole_run(faces_csv: Path, tmp_path: Path) -> None:
    settings = [*SMALL, *PLAIN, "ema=0.8", "batch_size=8", "learning_rate=0.02"]
    config = run.configure("keypoints", str(faces_csv), changes=[*settings, "epochs=6"])
    path = run.start(config, tmp_path / "run", quiet=True)
    rows = log(path.parent)
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert {p.name for p in path.parent.iterdir()} == {
        "config.json",
        "summary.json",
        "log.csv",
        "curves.png",
        "checkpoint.npz",
        "best.weights.npz",
        "model.keras",
    }
    # float32 whatever it was trained in, and it gives what the best epoch measured
    model = keras.saving.load_model(path, compile=False)
    assert {variable.dtype for variable in model.variables} == {"float32"}
    assert model.get_layer("stem_conv").compute_dtype == "float32"

    with pytest.raises(DataError, match="holds a run already; give --resume"):
        run.start(config, tmp_path / "run", quiet=True)
    other = run.configure("keypoints", str(faces_csv), changes=[*settings, "epochs=7"])
    with pytest.raises(DataError, match="started with another epochs"):
        run.start(other, tmp_path / "run", resume=True, quiet=True)


class ScriptedJob:
    """A one-weight network whose validation scores are written down beforehand."""

    monitor = "val_error"
    higher_is_better = False
    losses = "mse"

    def __init__(self, scores: list[float]) -> None:
        self.scores = iter(scores)
        self.weights: list[float] = []
        self.batches = Ones()

    def build(self) -> keras.Model:
        image = keras.Input((1,))
        return keras.Model(image, keras.layers.Dense(1, use_bias=False)(image))

    def validate(self, model: keras.Model) -> dict[str, float]:
        self.weights.append(float(model.get_weights()[0][0, 0]))
        return {"val_error": next(self.scores)}

    def finish(self, model: keras.Model) -> tuple[keras.Model, dict[str, object]]:
        return model, {}

    def summary(self) -> dict[str, object]:
        return {}


class Ones(keras.utils.PyDataset):  # type: ignore[misc]
    epoch = 0

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((4, 1), np.float32), np.ones((4, 1), np.float32)


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    job = ScriptedJob([0.5, 0.3, 0.4, 0.35, 0.2, 0.1])
    config = TrainConfig("keypoints", "nowhere", epochs=6, patience=2, dtype="float32")
    path = fit.train(job, config, tmp_path / "run", resume=False, quiet=True)
    # two epochs without a better score than the second's end the run, before the still better ones
    assert len(log(path.parent)) == 4
    assert len(set(job.weights)) == 4
    kept = keras.saving.load_model(path, compile=False).get_weights()[0][0, 0]
    assert kept == pytest.approx(job.weights[1])
    assert json.loads((path.parent / "summary.json").read_text())["best_epoch"] == 2


def test_training_goes_on_with_its_own_weights_not_the_averaged(tmp_path: Path) -> None:
    plain, averaged = ScriptedJob([0.5] * 4), ScriptedJob([0.5] * 4)
    for job, ema in ((plain, 0.0), (averaged, 0.9)):
        config = TrainConfig("keypoints", "nowhere", epochs=4, patience=0, ema=ema, dtype="float32", optimizer="sgd")
        fit.train(job, config, tmp_path / str(ema), resume=False, quiet=True)
    losses = [[float(row["loss"]) for row in log(tmp_path / name)] for name in ("0.0", "0.9")]
    assert losses[0] == pytest.approx(losses[1])
    assert plain.weights != pytest.approx(averaged.weights)


def test_a_run_starts_from_anothers_best_weights_and_resumes_without_them(tmp_path: Path) -> None:
    first, second = ScriptedJob([0.3, 0.1, 0.2]), ScriptedJob([0.3, 0.2])
    fit.train(first, TrainConfig("keypoints", "nowhere", epochs=3, dtype="float32"), tmp_path / "one", resume=False)
    still = {"learning_rate": 0.0, "warmup_epochs": 0, "weight_decay": 0.0, "dtype": "float32"}
    config = TrainConfig("keypoints", "nowhere", epochs=1, start_from=str(tmp_path / "one"), **still)
    fit.train(second, config, tmp_path / "two", resume=False)
    assert second.weights == pytest.approx([first.weights[1]])
    (tmp_path / "one" / "best.weights.npz").unlink()
    fit.train(second, config, tmp_path / "two", resume=True)
    with pytest.raises(DataError, match=r"best\.weights\.npz: no such file"):
        fit.train(second, config, tmp_path / "three", resume=False)
    # the same command works once the other run is there
    assert not (tmp_path / "three").exists()


def test_resume_without_a_run_says_so(faces_csv: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run to resume"):
        run.start(run.configure("keypoints", str(faces_csv)), tmp_path / "none", resume=True, quiet=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epohcs=2", "epohcs is unknown; expected one of task, data"),
        ("epochs=many", "epochs must be a number, got 'many'"),
        ("epochs=-1", "epochs must not be negative"),
        ("epochs=1.5", "epochs must be a whole number"),
        ("augmentation.flips=1", "augmentation.flips is unknown"),
        ("optimizer=lion", "optimizer must be one of sgd, adamw"),
        ("epochs", "expected KEY=VALUE"),
        ("repeat.helen=two", "repeat.helen must be a whole number and not negative, got 'two'"),
    ],
)
def test_a_wrong_setting_is_named(change: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run.configure("emotion", "fer2013.csv", changes=[change])
