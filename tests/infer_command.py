"""Start `facexp-infer` in its own process, as users do; write a clip for it; parse the records that it prints."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

COMMAND = [sys.executable, "-c", "from facexp_cli.main import infer_main; infer_main()"]


def start(*arguments: str, cwd: Path, **streams: Any) -> subprocess.Popen[bytes]:
    """Start the command with an empty standard input and pipes for its output, unless `streams` say otherwise."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=cwd,
        preexec_fn=_reset_signals,
        **pipes | streams,
    )


def _reset_signals() -> None:
    """Undo inherited settings: a shell's background job ignores SIGINT, and a process under nohup SIGHUP."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def records(text: str) -> list[dict[str, Any]]:
    """Parse JSON lines; fail if there is anything else on standard output."""
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def write_clip(path: str, frames: int = 20) -> None:
    """Write a clip of 64x48 pixels at 10 frames a second; its gray frames grow brighter, in cycles of 20."""
    writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for i in range(frames):
        writer.write(np.full((48, 64, 3), 20 + 10 * (i % 20), np.uint8))
    writer.release()
