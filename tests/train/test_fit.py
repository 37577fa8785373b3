"""The training loop: it learns, resumes where it was killed, and never mixes two runs."""

import csv
import html
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
from facexp_train import run
from facexp_train.config import TrainConfig
from facexp_train.errors import DataError, TrainingError
from facexp_train.fitting import fit
from facexp_train.fitting.milestones import milestones, read_answers
from facexp_train.fitting.run_directory import held_run_directory

SMALL = ["network.stem=8", "network.stages=[8,16]", "network.blocks=1", "network.head=8", "batch_size=16"]
PLAIN = [f"augmentation.{name}=0" for name in ("noise", "blur", "gamma", "erasing", "contrast", "brightness")]


@pytest.fixture(scope="module")
def faces_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kaggle's format: 160 drawn faces with three dark spots, from which the positions of all points follow."""
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
    # without groups, the reader would take the moved and stretched drawings for copies of one picture
    table = pd.DataFrame(rows, columns=columns).round(3).assign(group=range(len(rows)), Image=images)
    table.to_csv(path, index=False)
    return path


def command(data: Path, out: Path, *more: str) -> list[str]:
    changes = [part for change in [*SMALL, *PLAIN, "epochs=5", "ema=0.9"] for part in ("--set", change)]
    facexp = str(Path(sys.executable).with_name("facexp"))
    start = [facexp, "train", "keypoints", str(data), "--out", str(out)]
    return [*start, *changes, *more]


def log(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_killed_run_resumes_where_it_stopped(faces_csv: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(faces_csv, whole), check=True, capture_output=True)
    process = subprocess.Popen(command(faces_csv, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / "log.csv").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = len(log(killed))
    assert 1 <= before < 5
    assert not (killed / "model.keras").exists()
    subprocess.run(command(faces_csv, killed, "--resume"), check=True, capture_output=True)
    rows, expected = log(killed), log(whole)
    assert [row["epoch"] for row in rows] == [row["epoch"] for row in expected]
    # same seed, same order, same crops, same optimizer state: the same numbers
    without_times = [[{**row, "seconds": ""} for row in each] for each in (rows, expected)]
    assert without_times[0] == without_times[1]
    assert json.loads((killed / "summary.json").read_text())["epochs_run"] == 5
    assert set(read_answers(killed)) == set(read_answers(whole)) == {1, 2, 3, 4, 5}


@pytest.mark.slow
def test_training_learns_and_leaves_a_complete_run(faces_csv: Path, tmp_path: Path) -> None:
    settings = [*SMALL, *PLAIN, "ema=0.8", "batch_size=8", "learning_rate=0.02"]
    config = run.configure("keypoints", str(faces_csv), changes=[*settings, "epochs=6"])
    path = run.start(config, tmp_path / "run", quiet=True)
    rows = log(path.parent)
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert {p.name for p in path.parent.iterdir()} == {
        *("index.html", "numbers.json", "validation.csv", "settings.csv", "facts.csv"),
        *("samples.png", "samples_settled.png", "best.png", "worst.png"),
        *("answers", "faces.json", "followed.png", "epochs_best.png", "epochs_worst.png"),
        "config.json",
        "command.txt",
        "summary.json",
        "log.csv",
        "curves.png",
        "checkpoint.npz",
        "best.weights.npz",
        "model.keras",
    }
    page = (path.parent / "index.html").read_text()
    assert page.count("<img") == 8
    command = (path.parent / "command.txt").read_text().splitlines()[1]
    assert html.escape(command) in page

    with pytest.raises(DataError, match="holds a run already; give --resume"):
        run.start(config, tmp_path / "run", quiet=True)
    other = run.configure("keypoints", str(faces_csv), changes=[*settings, "epochs=7"])
    with pytest.raises(DataError, match="started with different settings: epochs"):
        run.start(other, tmp_path / "run", resume=True, quiet=True)


class ScriptedJob:
    """A task with a one-weight network and validation scores that are given in advance."""

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

    def begin(self, model: keras.Model) -> None:
        pass

    def validate(self, model: keras.Model) -> fit.Validation:
        self.weights.append(float(model.get_weights()[0][0, 0]))
        return fit.Validation({"val_error": next(self.scores)}, {"weight": np.float32(self.weights[-1:])})

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


def trained(job: ScriptedJob, config: TrainConfig, out: Path, resume: bool = False) -> Path:
    with held_run_directory(config, out, resume):
        return fit.train(job, config, out, resume, quiet=True)


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(fit, "draw_curves", lambda history, *_: drawn.append(len(history)))
    job = ScriptedJob([0.5, 0.3, 0.4, 0.35, 0.2, 0.1])
    config = TrainConfig("keypoints", "nowhere", epochs=6, patience=2, dtype="float32")
    path = trained(job, config, tmp_path / "run")
    # two epochs without improving on the second's score end the run, before the better ones that would follow
    assert len(log(path.parent)) == 4
    # the curves of a run shorter than ten seconds are drawn at its end
    assert drawn == [4]
    assert len(set(job.weights)) == 4
    kept = keras.saving.load_model(path, compile=False).get_weights()[0][0, 0]
    assert kept == pytest.approx(job.weights[1])
    assert json.loads((path.parent / "summary.json").read_text())["best_epoch"] == 2


def test_milestone_epochs_keep_their_predictions(tmp_path: Path) -> None:
    """Guards which epochs the page can show, also after an early stop and a resume, and that no others are kept."""
    shown = milestones(TrainConfig("keypoints", "nowhere", epochs=80, settle_epochs=12))
    assert {1, 69, 80} < shown
    assert len(shown) == 6
    assert set(np.diff(sorted(shown - {69}))) <= {19, 20}
    assert milestones(TrainConfig("keypoints", "nowhere", epochs=2, settle_epochs=9)) == {1, 2}

    config = TrainConfig("keypoints", "nowhere", epochs=20, patience=3, dtype="float32")
    first, second = ScriptedJob([0.5, 0.4, 0.3]), ScriptedJob([0.2, 0.3, 0.4, 0.5, 0.1])
    with pytest.raises(StopIteration):
        trained(first, config, tmp_path / "run")
    trained(second, config, tmp_path / "run", resume=True)
    # the files that a kill between the last checkpoint and the end leaves
    whole = (tmp_path / "run" / "log.csv").read_bytes()
    (tmp_path / "run" / "log.csv").write_bytes(b"epoch")
    (tmp_path / "run" / "answers" / "0005.npz").touch()
    trained(second, config, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "log.csv").read_bytes() == whole
    # epoch 4 was the best, 7 the last, and of the milestones 1, 6, 10, 15 and 20 two were reached
    answers = {epoch: float(outputs["weight"][0]) for epoch, outputs in read_answers(tmp_path / "run").items()}
    assert answers == {1: first.weights[0], 6: second.weights[2], 7: second.weights[3]}


def test_training_continues_with_its_own_weights_not_the_averaged_ones(tmp_path: Path) -> None:
    plain, averaged = ScriptedJob([0.5] * 4), ScriptedJob([0.5] * 4)
    for job, ema in ((plain, 0.0), (averaged, 0.9)):
        config = TrainConfig("keypoints", "nowhere", epochs=4, patience=0, ema=ema, dtype="float32", optimizer="sgd")
        trained(job, config, tmp_path / str(ema))
    losses = [[float(row["loss"]) for row in log(tmp_path / name)] for name in ("0.0", "0.9")]
    assert losses[0] == pytest.approx(losses[1])
    assert plain.weights != pytest.approx(averaged.weights)


def test_a_run_starts_from_anothers_best_weights_and_resumes_without_them(tmp_path: Path) -> None:
    first, second = ScriptedJob([0.3, 0.1, 0.2]), ScriptedJob([0.3, 0.2])
    trained(first, TrainConfig("keypoints", "nowhere", epochs=3, dtype="float32"), tmp_path / "one")
    frozen = {"learning_rate": 0.0, "warmup_epochs": 0, "weight_decay": 0.0, "dtype": "float32"}
    config = TrainConfig("keypoints", "nowhere", epochs=1, start_from=str(tmp_path / "one"), **frozen)
    trained(second, config, tmp_path / "two")
    assert second.weights == pytest.approx([first.weights[1]])
    (tmp_path / "one" / "best.weights.npz").unlink()
    trained(second, config, tmp_path / "two", resume=True)
    with pytest.raises(DataError, match=r"best\.weights\.npz: no such file"):
        trained(second, config, tmp_path / "three")
    # nothing is left behind: the same command works once the other run exists
    assert not (tmp_path / "three").exists()


def test_a_run_that_cannot_start_leaves_its_directory_free(faces_csv: Path, tmp_path: Path) -> None:
    # guards an error in the network, found before the directory is made, and one in the starting weights, found after
    wrong = run.configure("keypoints", str(faces_csv), changes=["network.stem=-1"])
    with pytest.raises(DataError, match=r"network: kind 'facexp' cannot be built from .*'stem': -1"):
        run.start(wrong, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    small = {"task": "keypoints", "data": "nowhere", "dtype": "float32", "epochs": 1}
    trained(ScriptedJob([0.1]), TrainConfig(**small), tmp_path / "one")
    with np.load(tmp_path / "one" / "best.weights.npz") as stored:
        np.savez(tmp_path / "one" / "best.weights.npz", v0000=stored["v0000"][:0])
    with pytest.raises(DataError, match="an array is"):
        trained(ScriptedJob([0.1]), TrainConfig(**small, start_from=str(tmp_path / "one")), tmp_path / "two")
    job = ScriptedJob([0.1])
    # also while a run is in its first epoch
    with held_run_directory(TrainConfig(**small), tmp_path / "two", False):
        with pytest.raises(DataError, match="holds a run already"):
            trained(job, TrainConfig(**small), tmp_path / "two")
        fit.train(job, TrainConfig(**small), tmp_path / "two", False, quiet=True)
    with pytest.raises(DataError, match="holds a run already"):
        trained(ScriptedJob([0.1]), TrainConfig(**small), tmp_path / "two")


def test_resuming_without_a_run_is_refused(faces_csv: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run to resume"):
        run.start(run.configure("keypoints", str(faces_csv)), tmp_path / "none", resume=True, quiet=True)


class InterruptedBatches(Ones):
    """Batches of which the first one in the second epoch raises SIGINT, like Ctrl-C."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if (self.epoch, index) == (1, 0):
            signal.raise_signal(signal.SIGINT)
        return super().__getitem__(index)


class InterruptedValidation(ScriptedJob):
    """A task that raises SIGINT while an epoch is validated."""

    def validate(self, model: keras.Model) -> fit.Validation:
        signal.raise_signal(signal.SIGINT)
        return super().validate(model)


def test_ctrl_c_ends_a_run_between_batches_and_keeps_a_trained_epoch(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    config = TrainConfig("keypoints", "nowhere", epochs=3, dtype="float32")
    job = ScriptedJob([0.5, 0.4])
    job.batches = InterruptedBatches()
    with pytest.raises(KeyboardInterrupt):
        trained(job, config, tmp_path / "run")
    assert [row["epoch"] for row in log(tmp_path / "run")] == ["1.0"]
    with pytest.raises(KeyboardInterrupt):
        trained(InterruptedValidation([0.4]), config, tmp_path / "run", resume=True)
    assert [row["epoch"] for row in log(tmp_path / "run")] == ["1.0", "2.0"]
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


class FullDisk(ScriptedJob):
    """A task whose checkpoint is written to a device that is always full, from the second epoch on."""

    def __init__(self, out: Path) -> None:
        super().__init__([0.5, 0.4, 0.3])
        self.out = out

    def validate(self, model: keras.Model) -> fit.Validation:
        if len(self.weights) == 1:
            (self.out / "checkpoint.npz.part").symlink_to("/dev/full")
        return super().validate(model)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_keeps_the_last_complete_epoch_and_a_resumable_run(tmp_path: Path) -> None:
    # guards the message, the files of the previous epoch, no partial files, and --resume afterwards
    out = tmp_path / "run"
    config = TrainConfig("keypoints", "nowhere", epochs=3, dtype="float32")
    with pytest.raises(TrainingError, match=r"checkpoint\.npz: cannot be written \(No space left.*epoch 1.*--resume"):
        trained(FullDisk(out), config, out)
    assert [row["epoch"] for row in log(out)] == ["1.0"]
    with np.load(out / "checkpoint.npz") as stored:
        assert len(json.loads(str(stored["history"]))) == 1
    assert not list(out.glob("*.part*"))
    job = ScriptedJob([0.4, 0.3])
    trained(job, config, out, resume=True)
    assert [row["epoch"] for row in log(out)] == ["1.0", "2.0", "3.0"]


class NanBatches(Ones):
    """Batches of which the second one in the second epoch is NaN."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        images, targets = super().__getitem__(index)
        return images * (np.nan if (self.epoch, index) == (1, 1) else 1), targets


def test_a_nan_loss_ends_the_run_and_keeps_the_weights(tmp_path: Path) -> None:
    out = tmp_path / "a run"
    job = ScriptedJob([0.5, 0.4])
    job.batches = NanBatches()
    config = TrainConfig("keypoints", "nowhere", epochs=3, learning_rate=0.1, ema=0, dtype="float32")
    with pytest.raises(TrainingError) as caught:
        trained(job, config, out)
    message = str(caught.value)
    assert "epoch 2: the loss in batch 2 of 2 is not a finite number" in message
    assert f"--set start_from='{out}' --set learning_rate=0.025" in message
    for name in ("best.weights.npz", "checkpoint.npz"):
        with np.load(out / name) as stored:
            assert np.isfinite(stored["v0000"]).all()
    # the settings that the message proposes work
    again = TrainConfig("keypoints", "nowhere", epochs=1, learning_rate=0.025, start_from=str(out), dtype="float32")
    assert trained(ScriptedJob([0.4]), again, tmp_path / "second").is_file()


def test_a_nan_score_ends_the_run(tmp_path: Path) -> None:
    config = TrainConfig("keypoints", "nowhere", epochs=3, dtype="float32")
    with pytest.raises(TrainingError, match="epoch 1: val_error is not a finite number; no epoch was kept"):
        trained(ScriptedJob([np.nan]), config, tmp_path / "run")
    assert not (tmp_path / "run" / "best.weights.npz").exists()


def test_the_learning_rate_is_logged_and_tensorboard_has_the_same_values(tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = TrainConfig("keypoints", "nowhere", epochs=3, warmup_epochs=1, learning_rate=0.1, dtype="float32")
    with held_run_directory(config, out, False):
        fit.train(ScriptedJob([0.5, 0.4, 0.3]), config, out, False, quiet=True, tensorboard=True)
    rates = [float(row["learning_rate"]) for row in log(out)]
    # the full rate after the warm-up epoch, half of it after one of two epochs of cosine decay, zero at the end
    assert rates == pytest.approx([0.1, 0.05, 0.0])
    from tensorflow.compat.v1.train import summary_iterator

    seen = {}
    for path in (out / "tensorboard").iterdir():
        for event in summary_iterator(str(path)):
            for value in event.summary.value:
                seen[value.tag, event.step] = value.simple_value
    assert [seen["learning_rate", epoch] for epoch in (1, 2, 3)] == pytest.approx(rates)
    assert [seen["val_error", epoch] for epoch in (1, 2, 3)] == pytest.approx([0.5, 0.4, 0.3])


def test_a_keypoint_without_a_training_label_is_named(faces_csv: Path, tmp_path: Path) -> None:
    table = pd.read_csv(faces_csv)
    faces = run.read_faces(run.configure("keypoints", str(faces_csv)), quiet=True)
    table.loc[faces.split == "train", ["nose_tip_x", "nose_tip_y"]] = np.nan
    table.to_csv(tmp_path / "training.csv", index=False)
    config = run.configure("keypoints", str(tmp_path / "training.csv"))
    with pytest.raises(DataError, match="no training face is labelled with nose_tip"):
        run.start(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
