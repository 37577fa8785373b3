"""`facexp verify`: its output and report for people, and its exit status for CI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from facexp_cli import main

pytest.importorskip("onnxruntime", reason="the proof runs the networks")


def verify(*arguments: object) -> Result:
    return CliRunner().invoke(main.cli, ["verify", *map(str, arguments)])


class Page(HTMLParser):
    """Collects the links and the text of a page, and checks that its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "rect", "path"):
            self.open_tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        assert tag in ("rect", "path") or self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_shipped_bundle_passes_on_a_device(tmp_path: Path) -> None:
    """Guards against a proof that needs more than the runtime or a minute, and skipped steps taken for passed."""
    code = """
import sys
for name in ("facexp_train", "facexp_export", "tensorflow", "keras", "pandas", "onnx", "ai_edge_litert"):
    sys.modules[name] = None
from facexp_cli.main import main
main()
"""
    command = [sys.executable, "-c", code, "verify", "--report", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT PROVED, because skipped: step 2 (numbers) and step 3 (task)" in done.stdout.splitlines()[-1]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [step["verdict"] for step in report["steps"]] == ["passed", "skipped", "skipped", "passed", "skipped"]
    compared = [check for check in report["steps"][3]["checks"] if "golden" in check["what"]]
    assert {check["device"] for check in compared} >= {"cpu"}
    assert int(report["machine"]["threads"]) >= 1
    assert any(check["what"].startswith("speed-up") for check in report["steps"][3]["checks"])
    # reports are passed on, so they must hold no directory of this machine
    assert str(tmp_path) not in (tmp_path / "out" / "report.json").read_text()


def test_a_damaged_bundle_is_status_3_and_named(own_shipped: Path, tmp_path: Path) -> None:
    """Guards against a CI job that passes, and an output or report that does not name the damaged file."""
    path = own_shipped / "keypoints.int8.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    result = verify("--bundle", own_shipped, "--report", tmp_path / "out")
    assert result.exit_code == 3
    assert "keypoints int8.onnx: sha256" in result.stdout
    assert "FAILED in step 1 (structure)" in result.stdout.splitlines()[-1]
    page = Page()
    page.feed((tmp_path / "out" / "report.html").read_text())
    assert page.open_tags == []
    assert "keypoints.int8.onnx has" in page.text
    # the page works offline: it links only to its own sections
    assert all(link.startswith("#step") for link in page.links)


@pytest.mark.parametrize(
    ("stdout", "message"),
    [("/dev/full", "No space left on device"), ("| true", "Broken pipe")],
)
def test_a_failed_proof_whose_output_cannot_be_written_is_status_3(
    own_shipped: Path, tmp_path: Path, stdout: str, message: str
) -> None:
    """Guards against a CI job that passes or loses its report if its log is full or its output pipe is closed."""
    (own_shipped / "keypoints.int8.onnx").write_bytes(b"")
    code = "from facexp_cli.main import main; main()"
    command = [sys.executable, "-c", code, "verify", "--bundle", own_shipped, "--report", tmp_path / "out"]
    if stdout == "/dev/full":
        target = os.open(stdout, os.O_WRONLY)
    else:
        read_end, target = os.pipe()
        os.close(read_end)
    try:
        done = subprocess.run(command, stdout=target, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(target)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines() == [
        f"report: {tmp_path / 'out' / 'report.html'}",
        f"Error: standard output cannot be written: {message}",
    ]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["passed"] is False


def test_a_report_that_cannot_be_written_does_not_hide_a_failed_proof(own_shipped: Path) -> None:
    """Guards against status 1, that of a report that cannot be written, for a failed proof, which is 3."""
    place = own_shipped / "manifest.json" / "out"
    message = f"Error: {place}: the report cannot be written (Not a directory)\n"
    result = verify("--bundle", own_shipped, "--report", place)
    assert (result.exit_code, result.stderr) == (1, message)
    assert "NOT PROVED" in result.stdout.splitlines()[-1]
    (own_shipped / "keypoints.int8.onnx").write_bytes(b"")
    result = verify("--bundle", own_shipped, "--report", place)
    assert (result.exit_code, result.stderr) == (3, message)
    assert "FAILED in step 1 (structure)" in result.stdout.splitlines()[-1]


def test_invalid_golden_answers_are_status_3_and_reported_in_one_line(own_shipped: Path) -> None:
    """Guards against damage in a file that no hash in the manifest covers."""
    path = own_shipped / "golden.npz"
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    result = verify("--bundle", own_shipped)
    assert (result.exit_code, result.stderr) == (3, "")
    assert f"golden answers: {path}: cannot be read" in result.stdout
    assert "FAILED in step 4 (device)" in result.stdout.splitlines()[-1]


def test_a_missing_bundle_is_status_1(tmp_path: Path) -> None:
    """Guards against a CI job with a wrong path being taken for a failed proof: no model is at fault."""
    for place in (tmp_path, tmp_path / "nowhere"):
        result = verify("--bundle", place)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == f"Error: {place}: no manifest.json to read; give the directory of a facexp bundle\n"


def test_wrong_usage_is_status_2_and_missing_data_status_1(tmp_path: Path) -> None:
    """Guards against status 3, that of a failed proof, for either."""
    assert verify("--budnle", tmp_path).exit_code == 2
    result = verify("--data", tmp_path / "faces.csv")
    assert result.exit_code == 1
    assert "no such data" in result.stderr
