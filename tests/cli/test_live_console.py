"""`facexp-infer` on cameras, streams and standard input as a process: signals, secrets, and what goes where."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from infer_command import COMMAND, start


@pytest.mark.parametrize(("number", "status", "frames"), [(signal.SIGINT, 130, 3), (signal.SIGTERM, 143, 0)])
def test_a_signal_ends_a_camera_that_hangs(
    tmp_path: Path, tiny_bundle: Path, web_camera: Any, number: int, status: int, frames: int
) -> None:
    """Guards Ctrl-C while nothing comes, at the opening and later: at once, with its status and nothing on stderr."""
    web_camera.plan = [(frames, "stalls")]
    options = ["--policy", "all", "--timeout", "120", "--save", "out", "--bundle", str(tiny_bundle)]
    process = start(web_camera.address, *options, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    assert web_camera.asked.wait(60)
    assert [json.loads(process.stdout.readline())["frame"] for _ in range(frames)] == list(range(frames))
    begun = time.monotonic()
    process.send_signal(number)
    assert process.wait(30) == status
    # a second on a machine that is free; here others may be at work
    assert time.monotonic() - begun < 10
    assert process.stderr.read() == b""
    # the recording of a camera ends in no other way
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".mkv"] * (frames > 0)


def test_a_stream_that_breaks_and_its_password(tmp_path: Path, tiny_bundle: Path, web_camera: Any) -> None:
    """Guards records, notes and FFmpeg's own lines against the password; the age and what was dropped are there."""
    web_camera.plan = [(5, "ends"), (0, "refused")]
    (tmp_path / "cameras.txt").write_text(f"# ours\n{web_camera.address}\n")
    # -v is where the libraries may speak
    arguments = ["@cameras.txt", "-v", "--duration", "4", "--save", "out", "--bundle", str(tiny_bundle)]
    process = start(*arguments, cwd=tmp_path)
    out, error = process.communicate(timeout=60)
    records = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0, error
    assert {record["source"] for record in records} == {records[0]["source"]}
    assert records[0]["source"].startswith("http://***@127.0.0.1:")
    assert all(record["age_ms"] > 0 for record in records)
    # each frame that came is a record or was dropped
    for before, after in itertools.pairwise(records):
        assert after["dropped"] <= after["frame"] - before["frame"] - 1
    assert [line for line in error.decode().splitlines() if "opening it again" in line]
    (saved,) = (tmp_path / "out").iterdir()
    for text in (out, error, saved.name.encode()):
        assert b"s3cret" not in text
        assert b"admin" not in text


def test_standard_input(tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards pipes: a stream of JPEGs, raw frames; and a signal while the writer says nothing."""
    frame = np.full((48, 64, 3), 90, np.uint8)
    jpeg = cv2.imencode(".jpg", frame)[1].tobytes()
    for data, options, times in (
        (3 * jpeg, [], [0.0, 33.3, 66.7]),
        (2 * frame.tobytes(), ["--raw", "64x48"], [0.0, 33.3]),
    ):
        done = subprocess.run(
            [*COMMAND, "-", *options, "--bundle", str(tiny_bundle)], input=data, capture_output=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, b"")
        records = [json.loads(line) for line in done.stdout.splitlines()]
        assert [record["time_ms"] for record in records] == times
        assert [(record["source"], record["width"]) for record in records] == [("-", 64)] * len(times)
    options = ["--policy", "latest", "--timeout", "120", "--bundle", str(tiny_bundle)]
    process = start("-", *options, cwd=tmp_path, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(2 * jpeg)
    process.stdin.flush()
    assert "age_ms" in json.loads(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_a_preview_ends_with_the_program(tmp_path: Path, tiny_bundle: Path, web_camera: Any) -> None:
    """Guards --preview from end to end: its address is told, it shows the frame, and a signal ends it at once."""
    pytest.importorskip("starlette", reason="the preview comes with the extra `serve`")
    pytest.importorskip("uvicorn", reason="the preview comes with the extra `serve`")
    process = start(web_camera.address, "--preview", "0", "--bundle", str(tiny_bundle), cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    note = process.stderr.readline().decode().strip()
    assert note.startswith("Note: the preview is at http://127.0.0.1:")
    process.stdout.readline()
    with urllib.request.urlopen(f"{note.split()[-1]}frame?after=0", timeout=60) as answer:
        assert json.load(answer)["record"]["width"] == 64
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (143, b"")
    assert b"s3cret" not in out
