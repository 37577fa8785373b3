"""A network learns from teachers that the same command trains first."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facexp_train import run
from facexp_train.config import TrainConfig
from facexp_train.errors import DataError

SMALL = {"stem": 4, "stages": [8], "blocks": 1, "dropout": 0.0}
STILL = dict.fromkeys(("flip", "rotation", "scale", "shift", "brightness", "contrast", "erasing"), 0.0)


@pytest.fixture(scope="module")
def bars_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FER2013's format: faces are bright bars, lying where they are happy and standing where they are sad."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(192):
        image = rng.integers(0, 60, (48, 48))
        code, at = (3, 4)[number % 2], rng.integers(8, 36)
        if code == 3:
            image[at : at + 4] += 150
        else:
            image[:, at : at + 4] += 150
        rows.append((code, " ".join(map(str, image.ravel())), "PublicTest" if number % 6 < 2 else "Training"))
    path = tmp_path_factory.mktemp("fer") / "fer2013.csv"
    pd.DataFrame(rows, columns=["emotion", "pixels", "Usage"]).to_csv(path, index=False)
    return path


def config(data: Path, **changes: object) -> TrainConfig:
    values = {"epochs": 20, "batch_size": 8, "optimizer": "adamw", "learning_rate": 0.01, "patience": 0, "ema": 0}
    values |= {"dtype": "float32", "network": SMALL, "augmentation": STILL, "task": "emotion", "data": str(data)}
    return TrainConfig.from_dict(values | changes, "test")


def teacher(**changes: object) -> dict[str, object]:
    values = {"epochs": 20, "batch_size": 8, "optimizer": "adamw", "learning_rate": 0.01, "patience": 0, "ema": 0}
    return values | {"dtype": "float32", "network": SMALL | {"stem": 8}, "augmentation": STILL} | changes


def test_a_network_learns_what_its_teacher_learnt(bars_csv: Path, tmp_path: Path) -> None:
    # guards: teachers trained first and loaded; the label itself counts nothing here
    out = tmp_path / "run"
    run.start(config(bars_csv, teachers=[teacher()], teacher_share=1.0), out, quiet=True)
    taught, first = (json.loads((path / "summary.json").read_text()) for path in (out, out / "teacher1"))
    assert first["validation"]["val_accuracy"] > 0.9
    assert taught["validation"]["val_accuracy"] > 0.9
    assert first["parameters"] > taught["parameters"]
    # each run shows what it saw and said, the teacher's too
    for path in (out, out / "teacher1"):
        assert (path / "index.html").read_text().count("<img") == len(list(path.glob("*.png")))
        assert (path / "samples.png").is_file()


def test_a_run_stopped_while_it_taught_goes_on_and_an_ended_teacher_stays(bars_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    whole = config(bars_csv, epochs=1, teachers=[teacher(epochs=1), teacher(epochs=2, seed=1)])
    run.start(whole, out, quiet=True)
    # as if it had been stopped in the second teacher's last epoch
    ended = (out / "teacher1" / "model.keras").stat().st_mtime_ns
    for name in ("model.keras", "checkpoint.npz", "best.weights.npz", "teacher2/model.keras"):
        (out / name).unlink()
    run.start(whole, out, resume=True, quiet=True)
    assert (out / "teacher1" / "model.keras").stat().st_mtime_ns == ended
    assert (out / "teacher2" / "model.keras").is_file()
    assert (out / "model.keras").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": [{"epoch": 3}]}, r"teachers\[0\]: epoch is unknown"),
        ({"teacher_share": 1.5}, "teacher_share must be between 0 and 1"),
        ({"teachers": [{}], "task": "keypoints"}, "only the emotion task"),
    ],
)
def test_wrong_teachers_are_told_at_once(bars_csv: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        config(bars_csv, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Training": 3}, "all training faces are happy; at least two classes"),
        ({"PublicTest": 1}, "64 faces of split 'val' are disgust, and no training face is"),
    ],
)
def test_a_class_that_cannot_be_learnt_is_named(
    bars_csv: Path, tmp_path: Path, change: dict[str, int], message: str
) -> None:
    table = pd.read_csv(bars_csv)
    for usage, code in change.items():
        table.loc[table.Usage == usage, "emotion"] = code
    table.to_csv(tmp_path / "fer2013.csv", index=False)
    with pytest.raises(DataError, match=message):
        run.start(config(tmp_path / "fer2013.csv"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
