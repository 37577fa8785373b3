"""How long things take, measured fairly: rivals in turns, and whole processes from their start to their end."""

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
# a process's peak memory counts what its parent had in use when it was forked: this one has next to nothing
_LAUNCH = """
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
    """Times of one thing, in milliseconds."""

    count: int
    """How often it was measured."""
    least: float
    """The shortest: what is left of a busy machine's times when nothing else ran."""
    p50: float
    """Half of the times are at most so long."""
    p90: float
    p99: float

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Spread:
        """The percentiles, interpolated between neighbours. ValueError where there is no time."""
        if len(times_ms) == 0:
            raise ValueError("no time was measured")
        p50, p90, p99 = np.percentile(np.asarray(times_ms), (50, 90, 99)).tolist()
        return cls(len(times_ms), float(min(times_ms)), p50, p90, p99)


@dataclass(frozen=True, slots=True)
class Process:
    """One run of a command."""

    seconds: float
    """From its start to its end, by the clock on the wall."""
    cpu_seconds: float | None
    """Of all its threads; None where the system does not tell (Windows)."""
    peak_mb: float | None
    """The most memory that it held, in MB of 10^6 bytes; None where the system does not tell."""


class Nowhere:
    """A stream for results that nobody reads."""

    def write(self, text: str, /) -> None:
        """Take the text."""

    def flush(self) -> None:
        """Hand nothing on."""


def in_turns(
    rivals: Mapping[_K, Callable[[], object]],
    rounds: int,
    *,
    step: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[_K, Spread]:
    """How long each call takes: all of them once in each round, so that whatever else runs here slows all of them.

    A round more comes first, and does not count. `step` is called after each round.
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
    """Run a command to its end. RuntimeError with the last line that it says where its status is not 0."""
    done = subprocess.run([sys.executable, "-P", "-c", _LAUNCH, *command], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    if told["status"] != 0:
        lines = str(told["said"]).splitlines() or ["it says nothing"]
        raise RuntimeError(f"{command[0]} ended with status {told['status']}: {lines[-1]}")
    return Process(told["s"], told["cpu_s"], None if told["peak"] is None else told["peak"] / _MB)


def peak_mb() -> float | None:
    """The most memory that this process has held, in MB of 10^6 bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / _MB
