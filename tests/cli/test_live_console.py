"""`facexp-infer` on cameras, streams and standard input as a process: signals, passwords, and standard error."""

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
def test_a_signal_ends_the_run_while_a_camera_stalls(
    tmp_path: Path, tiny_bundle: Path, web_camera: Any, number: int, status: int, frames: int
) -> None:
    """Guards against Ctrl-C that waits for a frame, at the opening or later, and another status or text on stderr."""
    web_camera.plan = [(frames, "stalls")]
    options = ["--policy", "all", "--timeout", "120", "--save", "out", "--bundle", str(tiny_bundle)]
    process = start(web_camera.address, *options, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    assert web_camera.requested.wait(60)
    assert [json.loads(process.stdout.readline())["frame"] for _ in range(frames)] == list(range(frames))
    begun = time.monotonic()
    process.send_signal(number)
    assert process.wait(30) == status
    # about a second on an idle machine; the limit allows for other load
    assert time.monotonic() - begun < 10
    assert process.stderr.read() == b""
    # a signal is the normal end of a camera's recording, so the file is kept
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".mkv"] * (frames > 0)


def test_a_broken_stream_is_reopened_and_its_password_hidden(
    tmp_path: Path, tiny_bundle: Path, web_camera: Any
) -> None:
    """Guards against the password in records, notes and FFmpeg's own messages, and records without age and dropped."""
    web_camera.plan = [(5, "ends"), (0, "refused")]
    (tmp_path / "cameras.txt").write_text(f"# ours\n{web_camera.address}\n")
    # with -v, the libraries may write messages
    arguments = ["@cameras.txt", "-v", "--duration", "4", "--save", "out", "--bundle", str(tiny_bundle)]
    process = start(*arguments, cwd=tmp_path)
    out, error = process.communicate(timeout=60)
    records = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0, error
    assert {record["source"] for record in records} == {records[0]["source"]}
    assert records[0]["source"].startswith("http://***@127.0.0.1:")
    assert all(record["age_ms"] > 0 for record in records)
    # each frame that arrived has a record or was dropped
    for before, after in itertools.pairwise(records):
        assert after["dropped"] <= after["frame"] - before["frame"] - 1
    assert [line for line in error.decode().splitlines() if "opening it again" in line]
    (saved,) = (tmp_path / "out").iterdir()
    for text in (out, error, saved.name.encode()):
        assert b"s3cret" not in text
        assert b"admin" not in text


def test_standard_input_is_jpegs_or_raw_frames(tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards against wrong records from a pipe, and a signal that has no effect while the writer sends nothing."""
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
    """Guards against a preview whose address is not shown, that serves no frame, or that delays the end of the run."""
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
