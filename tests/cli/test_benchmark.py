"""`facexp benchmark`: options, output and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from facexp_cli.main import cli


def test_json_table_and_errors(tmp_path: Path) -> None:
    """Guards against other text on standard output, a traceback for a missing source, and invalid lists of numbers."""
    quick = ["benchmark", "--rounds", "1", "--batch", "2", "--device", "cpu"]
    done = CliRunner().invoke(cli, [*quick, "--starts", "1", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert {row["batch"] for row in found["rows"] if row["group"] == "network"} == {2}
    assert found["cold_mb"] is None or 50 < found["cold_mb"] < 400
    assert "keypoints int8.onnx" in CliRunner().invoke(cli, [*quick, "--starts", "0"]).stdout
    broken = CliRunner().invoke(cli, [*quick, str(tmp_path / "gone.jpg")])
    assert (broken.exit_code, broken.stdout) == (1, "")
    assert broken.stderr.count("\n") == 1
    assert "no such file" in broken.stderr
    for wrong in ("1,", "a", "0", "1,-2"):
        assert CliRunner().invoke(cli, ["benchmark", "--threads", wrong]).exit_code == 2


@pytest.mark.parametrize(("option", "maximum"), [("--threads", 1024), ("--batch", 4096)])
def test_numbers_too_large_to_run_are_wrong_usage(option: str, maximum: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against running out of memory: nothing is started for such numbers."""
    monkeypatch.setattr("facexp.benchmark.run", lambda *_: pytest.fail("the benchmark was started"))
    for wrong in (maximum + 1, 99_999_999_999):
        done = CliRunner().invoke(cli, ["benchmark", option, f"1,{wrong}"])
        assert done.exit_code == 2
        assert f"'{option}': 1,{wrong} is not a list of numbers from 1 to {maximum}" in done.stderr
