"""Start `facexp serve` in its own process, as users do, on free ports."""

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
    """Address of REST and the page: http://HOST:PORT."""
    grpc: str
    """Address of gRPC: HOST:PORT."""
    startup_lines: list[str] = field(default_factory=list)
    """Lines on standard error, up to the one that says that the server is ready."""

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit status and what was written to standard error after the start."""
        self.running.send_signal(number)
        assert self.running.stderr
        # not communicate(), which would lose what has been read ahead into the buffer of the stream
        rest = self.running.stderr.read()
        return self.running.wait(PATIENCE_S), rest


@contextlib.contextmanager
def serving(arguments: Sequence[str], **environment: str) -> Iterator[Process]:
    """Start the server and wait until it takes requests; the end of the block stops it."""
    command = [sys.executable, "-c", "from facexp_cli.main import main; main()", "serve"]
    running = subprocess.Popen(
        [*command, "--rest-port", "0", "--grpc-port", "0", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert running.stderr
    lines = []
    try:
        for line in running.stderr:
            lines.append(line)
            found = re.fullmatch(r"Note: REST and the page on (http.+)/, gRPC on (.+)\n", line)
            if found:
                yield Process(running, found[1], found[2], lines)
                return
        raise AssertionError("".join(lines))
    finally:
        if running.poll() is None:
            running.terminate()
            running.stderr.read()
            running.wait(PATIENCE_S)
        running.stderr.close()
