"""`facexp-infer` in a process of its own, as people start it; a clip for it, and the records that it prints."""

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
    """Start it with nothing on standard input, and pipes for what it prints, where `streams` do not say otherwise."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=cwd,
        preexec_fn=_ignore_no_signal,
        **pipes | streams,
    )


def _ignore_no_signal() -> None:
    """A shell's background job hands down a SIGINT that is ignored, nohup such a SIGHUP."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def records(text: str) -> list[dict[str, Any]]:
    """The JSON lines; anything else on standard output fails here."""
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def write_clip(path: str, frames: int = 20) -> None:
    """A clip of 64x48 pixels and 10 frames a second, which grow brighter."""
    writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for i in range(frames):
        writer.write(np.full((48, 64, 3), 20 + 10 * (i % 20), np.uint8))
    writer.release()
