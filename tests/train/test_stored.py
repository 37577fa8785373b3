"""A damaged file in a run directory gives a one-line message that says what to do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from facexp_train import run
from facexp_train.config import TrainConfig
from facexp_train.errors import DataError
from facexp_train.fitting import fit
from facexp_train.stored import read_arrays, write_arrays


def truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-40])
    return path


def flipped(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    return path


def emptied(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def error_message(path: Path) -> str:
    with pytest.raises(DataError) as error:
        read_arrays(path, "make it again")
    return str(error.value)


def test_damaged_arrays_are_named(tmp_path: Path) -> None:
    """Guards the different errors of the zip and array readers: truncated, a flipped byte, empty, no zip file."""
    path, arrays = tmp_path / "a.npz", {"a": np.arange(5000), "b": np.array("text")}
    write_arrays(path, arrays)
    read = read_arrays(path, "")
    assert sorted(read) == ["a", "b"]
    assert np.array_equal(read["a"], arrays["a"])
    for damage in (truncated, flipped, emptied):
        write_arrays(path, arrays)
        line = error_message(damage(path))
        assert line.startswith(f"{path}: cannot be read (")
        assert line.endswith("); make it again")
        assert "\n" not in line
    path.write_text("not a zip file")
    assert error_message(path).endswith("; make it again")
    with path.open("wb") as file:
        np.save(file, np.arange(3))
    assert error_message(path).endswith("; make it again")


def test_damaged_run_files_are_named(tmp_path: Path) -> None:
    """Guards against a traceback from any file that commands read back."""
    config = TrainConfig("keypoints", "nowhere", dtype="float32")
    texts = {"config.json": config.to_json(), "summary.json": '{"temperatures": {"own": 1.5}}\n'}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.save(tmp_path / "model.keras")
    assert TrainConfig.from_run(tmp_path) == config
    assert run.temperatures(tmp_path) == {"own": 1.5}
    run.load_predict(tmp_path)
    write_arrays(tmp_path / "checkpoint.npz", {"v0000": np.zeros(1000)})
    for name in (*texts, "model.keras", "checkpoint.npz"):
        truncated(tmp_path / name)
    with pytest.raises(DataError, match=r"config\.json: cannot be read \(.*\); train that run again"):
        TrainConfig.from_run(tmp_path)
    with pytest.raises(DataError, match=r"summary\.json: cannot be read \(.*\); .* --resume writes it again"):
        run.temperatures(tmp_path)
    with pytest.raises(DataError, match=r"model\.keras: cannot be read \(.*\); .* --resume writes it again") as error:
        run.load_predict(tmp_path)
    assert "\n" not in str(error.value)
    job = SimpleNamespace(build=lambda: model, batches=[0], losses="mse")
    with pytest.raises(DataError, match=rf"checkpoint\.npz: cannot be read .* --set start_from={tmp_path}$"):
        fit.train(job, config, tmp_path, resume=True, quiet=True)  # type: ignore[arg-type]
    for text, message in (
        ('{"data": "x"}', "task is missing"),
        ("[]", "not an object"),
        ("\xff", "cannot be read"),
        (100_000 * "[", "cannot be read"),
    ):
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(DataError, match=message):
            TrainConfig.from_run(tmp_path)
