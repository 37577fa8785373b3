"""`facexp train` and `facexp evaluate`: their help, and one clear line for what cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from facexp_cli.main import COMMANDS, cli


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS), ["train", "keypoints"], ["train", "emotion"]])
def test_help(words: list[str]) -> None:
    done = CliRunner().invoke(cli, [*words, "--help"])
    assert done.exit_code == 0
    assert done.stdout.startswith("Usage:")


def run(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, list(words))
    return done.exit_code, done.stdout, done.stderr


def test_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    table = tmp_path / "fer2013.csv"
    table.write_text("emotion,pixels,Usage\n9,1 2 3,Training\n")
    status, out, err = run("train", "emotion", str(table), "--out", str(tmp_path / "run"))
    assert (status, out) == (1, "")
    (line,) = err.strip().splitlines()
    assert "fer2013.csv" in line
    assert "row 1" in line
    assert not (tmp_path / "run").exists()


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    status, _, err = run("train", "emotion", str(tmp_path), "--out", str(tmp_path / "run"), "--set", "epoch=3")
    assert status == 1
    assert "epoch is unknown; expected one of" in err


def test_missing_data_is_wrong_usage(tmp_path: Path) -> None:
    assert run("train", "keypoints", str(tmp_path / "none.csv"), "--out", str(tmp_path / "run"))[0] == 2
    assert run("train", "keypoints", str(tmp_path))[0] == 2


def test_evaluate_says_what_is_not_a_run(tmp_path: Path) -> None:
    status, _, err = run("evaluate", str(tmp_path), str(tmp_path))
    assert status == 1
    assert "no config.json; expected the --out directory of `facexp train`" in err
    stray = tmp_path / "model.onnx"
    stray.write_bytes(b"")
    status, _, err = run("evaluate", str(stray), str(tmp_path))
    assert status == 1
    assert "manifest.json" in err
