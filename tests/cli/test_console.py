"""`facexp-infer` as a process: signals, a closed output pipe, a full disk, a terminal, and output of libraries."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import select
import signal
import struct
import subprocess
import termios
import time
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facexp.sinks.pictures import save_picture
from facexp_cli.console import Signals, Stop
from infer_command import COMMAND, records, start, write_clip


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_only_complete_lines(
    tmp_path: Path, tiny_bundle: Path, astronaut: Any, number: int, status: int
) -> None:
    """Guards against a truncated line after Ctrl-C while the reader is slow and a line is half in the full pipe."""
    # a pipe takes up to 4 kB atomically, and Python buffers the rest of up to 8 kB: only longer lines can break
    save_picture(tmp_path / "many.png", np.tile(astronaut[:256:2, 96:352:2], (4, 4, 1)))
    process = start(*["many.png"] * 60, "--bundle", str(tiny_bundle), cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    first = process.stdout.readline()
    assert len(first) > 9000
    wait_until_full(process.stdout)
    process.send_signal(number)
    time.sleep(0.3)
    found = records((first + process.stdout.read()).decode())
    assert process.wait(20) == status
    assert 3 <= len(found) < 60
    assert process.stderr.read() == b""


def wait_until_full(pipe: Any) -> None:
    """Wait until the pipe is almost full: the command is then blocked in the middle of a line."""
    capacity = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    deadline = time.monotonic() + 60
    while struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0] < capacity - 8192:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_leaves_no_half_written_clip(tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards against an unfinished clip or its temporary file in the --save folder; finished photos stay."""
    save_picture(tmp_path / "a.png", np.full((48, 64, 3), 90, np.uint8))
    write_clip(str(tmp_path / "x.mp4"), 2000)
    options = ["--face-crops", "--bundle", str(tiny_bundle), "--save", "out"]
    process = start("a.png", "x.mp4", *options, cwd=tmp_path)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    assert len(list((tmp_path / "out").iterdir())) == 2
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_a_closed_output_pipe_ends_the_run_quietly(tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards against an error message from `facexp-infer ... | head -1`."""
    write_clip(str(tmp_path / "x.mp4"), 300)
    process = start("x.mp4", "--face-crops", "--bundle", str(tiny_bundle), cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["frame"] == 0
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_reported_in_one_line(tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards against a traceback, repeated messages or status 0 if `> results.jsonl` fills the disk."""
    write_clip(str(tmp_path / "x.mp4"), 3)
    with Path("/dev/full").open("wb") as full:
        process = start("x.mp4", "--bundle", str(tiny_bundle), cwd=tmp_path, stdout=full)
        assert process.stderr is not None
        message = process.stderr.read()
    assert process.wait(20) == 1
    assert message == b"Error: standard output cannot be written: No space left on device\n"


def test_a_full_disk_leaves_only_complete_lines(tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards `>> results.jsonl`: the next run would append its first record to half a line."""
    write_clip(str(tmp_path / "x.mp4"), 5)
    command = [*COMMAND, "x.mp4", "--bundle", str(tiny_bundle)]
    lines = tmp_path / "results.jsonl"
    for limit, complete in ((500, 2), (resource.RLIM_INFINITY, 2 + 5)):
        with lines.open("ab") as file:
            subprocess.run(
                command,
                cwd=tmp_path,
                stdout=file,
                stderr=subprocess.PIPE,
                timeout=60,
                preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)),
            )
        assert [record["frame"] for record in records(lines.read_text())] == [0, 1, 0, 1, 2, 3, 4][:complete]


def test_output_of_libraries_is_suppressed(tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards against libraries that write to standard error on their own, and records that fail in an ASCII locale."""
    write_clip(str(tmp_path / "Grüße.mp4"), 30)
    data = bytearray((tmp_path / "Grüße.mp4").read_bytes())
    (tmp_path / "cut.mp4").write_bytes(data[:500])
    ok, jpeg = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    assert ok
    damaged = bytearray(jpeg.tobytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 40] = bytes(40)
    (tmp_path / "hurt.jpg").write_bytes(damaged)
    (tmp_path / "bad.tif").write_bytes(b"II*\0" + bytes(60))
    process = subprocess.run(
        [*COMMAND, "Grüße.mp4", "cut.mp4", "hurt.jpg", "bad.tif", "--bundle", str(tiny_bundle)],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        timeout=60,
    )
    assert process.returncode == 1
    found = records(process.stdout.decode())
    assert [record["source"] for record in found] == ["Grüße.mp4"] * 30 + ["cut.mp4", "hurt.jpg", "bad.tif"]
    lines = process.stderr.decode().splitlines()
    assert [line.split(":")[:2] for line in lines] == [["Error", " cut.mp4"], ["Error", " bad.tif"]]


def test_a_terminal_gets_text_and_a_progress_bar(tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards against JSON lines on a terminal, and a progress bar that is missing or that -q does not remove."""
    write_clip(str(tmp_path / "x.mp4"), 5)
    for options, bar in (([], True), (["-q"], False)):
        out_master, out = pty.openpty()
        error_master, error = pty.openpty()
        fcntl.ioctl(error, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        arguments = ["x.mp4", "gone.jpg", "--bundle", str(tiny_bundle), *options]
        process = start(*arguments, cwd=tmp_path, stdout=out, stderr=error)
        os.close(out)
        os.close(error)
        texts = drain(out_master, error_master)
        assert process.wait(20) == 1
        lines = texts[out_master].replace("\r\n", "\n").splitlines()
        assert lines[0] == "x.mp4  frame 0  0.00 s  64x48  no face"
        assert (len(lines), lines[-1]) == (6, "gone.jpg  not read")
        assert ("5/5" in texts[error_master]) == bar
        assert "Error: gone.jpg: no such file or folder" in texts[error_master]


def drain(*masters: int) -> dict[int, str]:
    """Return the text that each terminal receives until the other side closes it."""
    data = dict.fromkeys(masters, b"")
    still_open = list(masters)
    while still_open:
        for master in select.select(still_open, [], [], 30)[0]:
            try:
                part = os.read(master, 65536)
            except OSError:
                part = b""
            data[master] += part
            if not part:
                still_open.remove(master)
                os.close(master)
    return {master: text.decode() for master, text in data.items()}


def test_an_ignored_signal_stays_ignored() -> None:
    """Guards against `nohup facexp-infer rtsp://... &` ending when its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_a_blocked_run() -> None:
    """Guards against a run that Ctrl-C cannot end while a line is blocked: only the first signal waits for the line."""

    def blocked(signals: Signals) -> None:
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second signal was deferred, too")

    # if the tests run as a shell's background job, SIGINT is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Signals() as signals, pytest.raises(Stop) as caught:
            blocked(signals)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.status == 130
