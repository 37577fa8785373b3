"""Fair timing: alternatives measured in turns, and whole processes measured from start to end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

_K = TypeVar("_K")
_MB = 1e6
# a child's peak memory includes what its parent used at the time of the fork, so a small process launches the command
_LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
seconds = time.perf_counter() - start
try:
    import resource
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
except ImportError:
    cpu = peak = None
said = done.stderr.decode(errors="replace").strip()
print(json.dumps({"status": done.returncode, "said": said, "s": seconds, "cpu_s": cpu, "peak": peak}))
"""


@dataclass(frozen=True, slots=True)
class Spread:
    """The distribution of the measured times of one operation, in milliseconds."""

    count: int
    """Number of measurements."""
    least: float
    """The shortest time: on a busy machine, the closest to the time without other load."""
    p50: float
    """The median: half of the times are at most this long."""
    p90: float
    """The 90th percentile."""
    p99: float
    """The 99th percentile."""

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Spread:
        """Compute the percentiles, interpolated linearly. Raises ValueError for an empty sequence."""
        if len(times_ms) == 0:
            raise ValueError("no time was measured")
        p50, p90, p99 = np.percentile(np.asarray(times_ms), (50, 90, 99)).tolist()
        return cls(len(times_ms), float(min(times_ms)), p50, p90, p99)


@dataclass(frozen=True, slots=True)
class Process:
    """The measurements of one run of a command."""

    seconds: float
    """Wall-clock time from its start to its end."""
    cpu_seconds: float | None
    """CPU time of all its threads; None if the system does not report it (Windows)."""
    peak_mb: float | None
    """Peak memory in MB of 10^6 bytes; None if the system does not report it (Windows)."""


class NullStream:
    """A stream that discards what is written to it."""

    def write(self, text: str, /) -> None:
        """Discard the text."""

    def flush(self) -> None:
        """Do nothing."""


def in_turns(
    rivals: Mapping[_K, Callable[[], object]],
    rounds: int,
    *,
    step: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[_K, Spread]:
    """Measure how long each call takes.

    Each round makes every call once, so that other load on the machine slows them all alike. One additional round comes
    first as a warm-up and is not counted. `step` is called after each round, also after the warm-up.
    """
    times: dict[_K, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, call in rivals.items():
            start = clock()
            call()
            end = clock()
            if number:
                times[name].append(1e3 * (end - start))
        step()
    return {name: Spread.of(values) for name, values in times.items()}


def run_process(command: Sequence[str]) -> Process:
    """Run a command to its end and measure it.

    Raises RuntimeError if it cannot be started and, with the last line that it wrote to standard error, if its exit
    status is not 0.
    """
    done = subprocess.run([sys.executable, "-P", "-c", _LAUNCHER, *command], capture_output=True, text=True)
    if done.returncode != 0:
        *_, reason = "no error message", *done.stderr.splitlines()
        raise RuntimeError(f"{command[0]} cannot be started: {reason}")
    result = json.loads(done.stdout)
    if result["status"] != 0:
        lines = str(result["said"]).splitlines() or ["no error message"]
        raise RuntimeError(f"{command[0]} ended with status {result['status']}: {lines[-1]}")
    return Process(result["s"], result["cpu_s"], None if result["peak"] is None else result["peak"] / _MB)


def peak_mb() -> float | None:
    """Return this process's peak memory so far, in MB of 10^6 bytes; None if the system does not report it."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / _MB
