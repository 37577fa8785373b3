"""`facexp-infer --engine ray` up to the start of Ray: usage, missing extras, and errors in one line."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from facexp.sinks.pictures import save_picture
from facexp_cli.infer import infer

Run = Callable[..., Result]

PATIENCE_S = 60.0
SKIPPED = 'RAY NOT TESTED: pip install "facexp[ray]"'


@pytest.fixture
def run(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs the command with the Ray engine in a directory with blank.png."""
    monkeypatch.chdir(tmp_path)
    save_picture(Path("blank.png"), np.full((48, 64, 3), 90, np.uint8))

    def invoke(*arguments: str, engine: str = "ray") -> Result:
        return CliRunner().invoke(infer, ["--engine", engine, "--bundle", str(tiny_bundle), *arguments])

    return invoke


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["blank.png"], "--engine ray needs --out"),
        (["blank.png", "--out", "--resume"], "looks like an option"),
        (["blank.png", "--out", "o", "--workers", "0"], "--workers"),
        (["blank.png", "--out", "o", "--format", "csv"], "--format is for --engine local"),
        (["blank.png", "--out", "o", "--save", "s"], "--save is for --engine local"),
        (["blank.png", "--out", "o", "--preview", "8000"], "--preview is for --engine local"),
        (["blank.png", "--out", "o", "--threads", "2"], "--threads is for --engine local"),
        (["blank.png", "--out", "o", "--timeout", "10"], "--timeout is for --engine local"),
        (["blank.png", "--out", "o", "--device", "cuda"], "needs --gpus-per-worker"),
    ],
)
def test_wrong_usage_is_status_2(run: Run, arguments: list[str], reason: str) -> None:
    """Guards against options that would have no effect, and files written despite the error."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert reason in " ".join(result.stderr.split())
    assert os.listdir() == ["blank.png"]  # noqa: PTH208


@pytest.mark.parametrize("flag", ["--out=o", "--resume", "--workers=2", "--gpus-per-worker=1", "--ray-address=auto"])
def test_the_engine_is_never_guessed(run: Run, flag: str) -> None:
    """Guards against a forgotten --engine ray: the local run would print instead of writing the folder."""
    result = run("blank.png", flag, engine="local")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{flag.partition('=')[0]} is for --engine ray" in result.stderr


def test_a_missing_extra_is_reported_in_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a message without the install command."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find_spec(name))
    result = run("blank.png", "--out", "o")
    assert (result.exit_code, result.stderr) == (1, 'Error: ray is not installed: pip install "facexp[ray]"\n')


def test_unsupported_sources_and_existing_results_are_reported_in_one_line(run: Run) -> None:
    """Guards against a traceback for cameras and pipes, and against existing results being overwritten."""
    pytest.importorskip("ray", reason=SKIPPED)
    Path("there.parquet").mkdir()
    Path("there.parquet/part-000000.parquet").write_text("mine")
    for arguments, reason in (
        (("0", "--out", "o"), "0: a camera"),
        (("-", "--out", "o"), "-: a camera, stream or pipe"),
        (("rtsp://me:secret@camera/live", "--out", "o"), "rtsp://***@camera/live: a camera"),
        (("blank.png", "--out", "there.parquet"), "there.parquet: exists already"),
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert re.fullmatch(rf"Error: {re.escape(reason)}.*\n", result.stderr), result.stderr
    assert Path("there.parquet/part-000000.parquet").read_text() == "mine"


def test_names_that_ray_cannot_take_on_the_command_line_are_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the advice for old archives: in a folder or a list such names are read."""
    ray = pytest.importorskip("ray", reason=SKIPPED)
    # Ray itself encodes the arguments of this process
    monkeypatch.setattr(ray, "init", lambda *_, **__: os.fsdecode(b"n\xff.jpg").encode())
    result = run("blank.png", "--out", "o")
    assert result.exit_code == 1
    assert "not valid UTF-8: give a folder above it, or a list (@names.txt)\n" in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unreachable_cluster_is_reported_in_one_line(run: Run) -> None:
    """Guards against Ray's long wait for an address that does not answer, and its client, which Ray Data cannot use."""
    pytest.importorskip("ray", reason=SKIPPED)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address, reason in (
        (f"127.0.0.1:{port}", f"Ray cannot be reached at 127.0.0.1:{port}: [Errno 111] Connection refused"),
        ("127.0.0.1:66666", "Ray cannot be reached at 127.0.0.1:66666: "),
        (f"ray://127.0.0.1:{port}", f"ray://127.0.0.1:{port}: Ray Data does not run through Ray's client"),
    ):
        start = time.monotonic()
        result = run("blank.png", "--out", "o", "--ray-address", address)
        assert (result.exit_code, result.stdout) == (1, "")
        assert re.fullmatch(rf"Error: {re.escape(reason)}.*\n", result.stderr), result.stderr
        assert time.monotonic() - start < PATIENCE_S


def test_results_that_cannot_be_written_are_reported_in_one_line(run: Run) -> None:
    """Guards against a traceback if --out cannot be made."""
    pytest.importorskip("ray", reason=SKIPPED)
    result = run("blank.png", "--out", "blank.png/out")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"Error: .*blank\.png/out: .*Not a directory.*\n", result.stderr), result.stderr


def test_an_interrupted_job_says_how_to_resume_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against Ray running on after Ctrl-C, a status other than the signal's, and no message about --resume."""
    many = pytest.importorskip("facexp.many", reason=SKIPPED)
    from facexp_cli.console import Stop

    ended = []

    def parts(*_: object) -> Iterator[Any]:
        try:
            yield many.Part(0, 1, 1, 0, ["blank.png: is odd"], ["blank.png: is small"], "here/1", 1.0, 2.0)
            raise Stop(2)
        finally:
            ended.append(True)

    monkeypatch.setattr(many.ManyImages, "run", parts)
    result = run("blank.png", "gone.png", "--out", "o")
    assert (result.exit_code, ended) == (130, [True])
    assert result.stderr.splitlines() == [
        "Note: blank.png: is small",
        "Error: blank.png: is odd",
        "Note: 1 of 2 sources are done: --resume continues with the others",
    ]
