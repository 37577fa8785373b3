"""`facexp-infer` as a process: signals, readers that go, a full disk, a terminal, and libraries that chatter."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facexp.sinks.pictures import save_picture
from facexp_cli.console import Signals, Stop
from infer_command import COMMAND, records, start, write_clip


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_whole_lines(
    tmp_path: Path, tiny_bundle: Path, astronaut: Any, number: int, status: int
) -> None:
    """Guards Ctrl-C at the worst moment: the reader is slow, the pipe is full, a line is half in it."""
    # a pipe takes 4 kB at once or not at all, and Python keeps what is left of 8 kB: only longer lines can break
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
    """Wait until hardly anything more goes into the pipe: the command then stands in the middle of a line."""
    room = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    deadline = time.monotonic() + 60
    while struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0] < room - 8192:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_leaves_no_half_written_clip(tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards --save: the photos done are there, the clip that was being written is gone with its temporary file."""
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


def test_a_reader_that_goes_ends_the_run_quietly(tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards `facexp-infer ... | head -1`."""
    write_clip(str(tmp_path / "x.mp4"), 300)
    process = start("x.mp4", "--face-crops", "--bundle", str(tiny_bundle), cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["frame"] == 0
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line(tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards `> results.jsonl` on a full disk: said once, status 1, no traceback."""
    write_clip(str(tmp_path / "x.mp4"), 3)
    with Path("/dev/full").open("wb") as full:
        process = start("x.mp4", "--bundle", str(tiny_bundle), cwd=tmp_path, stdout=full)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.wait(20) == 1
    assert said == b"Error: standard output cannot be written: No space left on device\n"


def test_libraries_do_not_chatter(tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards standard error against libraries that print past Python, and standard output against an ASCII locale."""
    write_clip(str(tmp_path / "Grüße.mp4"), 30)
    data = bytearray((tmp_path / "Grüße.mp4").read_bytes())
    (tmp_path / "cut.mp4").write_bytes(data[:500])
    ok, jpeg = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    assert ok
    hurt = bytearray(jpeg.tobytes())
    hurt[len(hurt) // 2 : len(hurt) // 2 + 40] = bytes(40)
    (tmp_path / "hurt.jpg").write_bytes(hurt)
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
    """Guards the two streams of a person at a terminal: text by default, a bar on standard error that -q takes away."""
    write_clip(str(tmp_path / "x.mp4"), 5)
    for options, bar in (([], True), (["-q"], False)):
        out_master, out = pty.openpty()
        error_master, error = pty.openpty()
        fcntl.ioctl(error, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        arguments = ["x.mp4", "gone.jpg", "--bundle", str(tiny_bundle), *options]
        process = start(*arguments, cwd=tmp_path, stdout=out, stderr=error)
        os.close(out)
        os.close(error)
        texts = drain(process, out_master, error_master)
        assert process.wait(20) == 1
        lines = texts[out_master].replace("\r\n", "\n").splitlines()
        assert lines[0] == "x.mp4  frame 0  0.00 s  64x48  no face"
        assert (len(lines), lines[-1]) == (6, "gone.jpg  not read")
        assert ("5/5" in texts[error_master]) == bar
        assert "Error: gone.jpg: no such file or folder" in texts[error_master]


def drain(process: subprocess.Popen[bytes], *masters: int) -> dict[int, str]:
    """All that the terminals get until the other side closes them."""
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


def test_what_is_ignored_on_purpose_stays_ignored() -> None:
    """Guards `nohup facexp-infer rtsp://... &`: a terminal that is closed does not end it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_what_is_stuck() -> None:
    """Guards Ctrl-C where whoever reads our output does not: the first lets the line end, the second does not wait."""

    def stuck(signals: Signals) -> None:
        with signals.whole():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second signal was held up, too")

    # a shell's background job has handed down a SIGINT that is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Signals() as signals, pytest.raises(Stop) as caught:
            stuck(signals)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.status == 130
