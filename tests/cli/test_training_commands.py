"""Commands of `facexp` around training (train, evaluate, predict, explore, augment): help, output and errors."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click
import pytest
from click.testing import CliRunner

import drawn
import facexp
from facexp.errors import DeviceError
from facexp_cli.main import COMMANDS, cli
from facexp_cli.models import Model, same_task


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS), ["train", "keypoints"], ["train", "emotion"]])
def test_every_command_has_help(words: list[str]) -> None:
    done = CliRunner().invoke(cli, [*words, "--help"])
    assert done.exit_code == 0
    assert done.stdout.startswith("Usage:")


def run(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, list(words))
    return done.exit_code, done.stdout, done.stderr


def test_an_invalid_file_is_reported_in_one_line(tmp_path: Path) -> None:
    table = tmp_path / "fer2013.csv"
    table.write_text("emotion,pixels,Usage\n9,1 2 3,Training\n")
    status, out, err = run("train", "emotion", str(table), "--out", str(tmp_path / "run"))
    assert (status, out) == (1, "")
    (line,) = err.strip().splitlines()
    assert "fer2013.csv" in line
    assert "row 1" in line
    assert not (tmp_path / "run").exists()


def test_an_unknown_setting_is_reported(tmp_path: Path) -> None:
    status, _, err = run("train", "emotion", str(tmp_path), "--out", str(tmp_path / "run"), "--set", "epoch=3")
    assert status == 1
    assert "epoch is unknown; expected one of" in err


def test_missing_data_is_wrong_usage(tmp_path: Path) -> None:
    assert run("train", "keypoints", str(tmp_path / "none.csv"), "--out", str(tmp_path / "run"))[0] == 2
    assert run("train", "keypoints", str(tmp_path))[0] == 2


def test_evaluate_says_why_a_path_is_not_a_run(tmp_path: Path) -> None:
    status, _, err = run("evaluate", str(tmp_path), str(tmp_path))
    assert status == 1
    assert "no config.json; expected the --out directory of `facexp train`" in err
    stray = tmp_path / "model.onnx"
    stray.write_bytes(b"")
    status, _, err = run("evaluate", str(stray), str(tmp_path))
    assert status == 1
    assert "manifest.json: no such file; a model file is evaluated in its bundle's directory" in err


def test_a_sheet_must_be_a_png(tmp_path: Path) -> None:
    status, _, err = run("predict", str(tmp_path), str(tmp_path), "--out", str(tmp_path / "sheet.jpg"))
    assert status == 2
    assert "expected a name that ends in .png" in err


def test_a_sheet_next_to_its_data_is_refused_before_any_prediction(tmp_path: Path) -> None:
    """Guards against faces.csv being replaced by the predictions for it; the run is not even loaded."""
    faces = tmp_path / "faces.csv"
    faces.write_text("emotion,pixels\n")
    status, out, err = run("predict", str(tmp_path), str(faces), "--out", str(tmp_path / "faces.png"))
    assert (status, out) == (1, "")
    assert err.startswith(f"Error: {faces}: the predictions would replace this file")


def test_models_of_different_tasks_or_classes_are_not_compared() -> None:
    pytest.importorskip("keras", reason="training needs the train extra")
    from facexp_train.config import TrainConfig

    configs = {
        "k1": TrainConfig("keypoints", "data"),
        "e1": TrainConfig("emotion", "data", classes=["happy", "sad"]),
        "e2": TrainConfig("emotion", "data", classes=["happy", "angry"]),
    }
    points, first, second = (Model(name, config, dict, None, None) for name, config in configs.items())
    with pytest.raises(click.UsageError, match="k1 and e1 differ in their task: keypoints, emotion"):
        same_task(points, first)
    with pytest.raises(click.UsageError, match="differ in their classes"):
        same_task(first, second)
    same_task(first, first)


def test_explore_prints_warnings_and_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against no summary or path on stdout, another default folder, and a report without predictions."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    drawn.write_fer2013(tmp_path / "fer2013.csv", 14, 7)
    status, out, err = run("explore", "fer2013.csv", "-q")
    assert (status, err) == (0, "")
    assert out.startswith("fer2013.csv: 28 faces of 48x48 pixels, labelled for emotion. Rows are the data rows")
    assert "Warning: Few test faces of angry (1)" in out
    assert out.endswith("\nexplore-fer2013/index.html\n")
    assert '"networks_asked": true' in (tmp_path / "explore-fer2013" / "numbers.json").read_text()
    (tmp_path / "cars.csv").write_text("wheels\n4\n")
    status, out, err = run("explore", "cars.csv", "--out", "report")
    assert (status, out) == (1, "")
    assert err.startswith("Error: cars.csv: neither a column emotion")
    assert not (tmp_path / "report").exists()


def test_explore_reports_a_broken_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a traceback if onnxruntime is installed but cannot be imported."""

    def broken(device: str) -> NoReturn:
        raise DeviceError("onnxruntime cannot be imported")

    monkeypatch.setattr(facexp, "Analyzer", broken)
    (tmp_path / "faces.csv").write_text("emotion,pixels\n")
    status, out, err = run("explore", str(tmp_path / "faces.csv"), "--out", str(tmp_path / "report"))
    assert (status, out, err) == (1, "", "Error: onnxruntime cannot be imported\n")


def test_augment_prints_the_path_to_train_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against no path on stdout, and --only or --seed having no effect."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    drawn.write_fer2013(tmp_path / "fer2013.csv", 14, 7)
    words = ("augment", str(tmp_path / "fer2013.csv"), "--out", str(tmp_path / "more"), "-q")
    status, out, err = run(*words, "--only", "flip", "--only", "darker", "--seed", "3")
    assert (status, out) == (0, f"{tmp_path / 'more' / 'fer2013.csv'}\n")
    assert err == "28 faces and 28 changed copies\n"
    assert '"seed": 3' in (tmp_path / "more" / "augmentation.json").read_text()
    status, out, err = run(*words)
    assert (status, out) == (1, "")
    assert "more: is not empty; give another folder" in err
