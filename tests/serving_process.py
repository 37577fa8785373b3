"""`facexp serve` in a process of its own, as people start it, on ports that are free."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

PATIENCE_S = 120.0


@dataclass(slots=True)
class Process:
    """A running `facexp serve`."""

    running: subprocess.Popen[str]
    rest: str
    """http://HOST:PORT"""
    grpc: str
    """HOST:PORT"""
    said: list[str] = field(default_factory=list)
    """The lines on standard error until it was ready."""

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; the exit status and what it said after it was ready."""
        self.running.send_signal(number)
        assert self.running.stderr
        # not communicate(), which would pass over what was read ahead of the last line
        rest = self.running.stderr.read()
        return self.running.wait(PATIENCE_S), rest


@contextlib.contextmanager
def serving(arguments: Sequence[str], **environment: str) -> Iterator[Process]:
    """Start it and wait until it takes requests; it ends with the block."""
    command = [sys.executable, "-c", "from facexp_cli.main import main; main()", "serve"]
    running = subprocess.Popen(
        [*command, "--rest-port", "0", "--grpc-port", "0", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert running.stderr
    said = []
    try:
        for line in running.stderr:
            said.append(line)
            found = re.fullmatch(r"Note: REST and the page on (http.+)/, gRPC on (.+)\n", line)
            if found:
                yield Process(running, found[1], found[2], said)
                return
        raise AssertionError("".join(said))
    finally:
        if running.poll() is None:
            running.terminate()
            running.stderr.read()
            running.wait(PATIENCE_S)
        running.stderr.close()
