"""Check that memory and time per frame stay flat: python benchmarks/endless.py [--frames 100000] [--clip CLIP]

A clip is analysed in a loop, with all that `facexp-infer` does: reading, tracking faces, writing JSON lines. After a
warm-up, the resident memory of the process and the time per frame are compared from slice to slice. The exit status is
1 if memory grows by 2 MB or more, or if the 99th percentile of CPU time per frame in the second half is at least 1.5
times that of the first half. tests/test_endless.py is a short version.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

import cv2
import numpy as np

import facexp
from facexp.pipeline import analyze_sources
from facexp.reading import ReadOptions
from facexp.sinks.records import JsonlSink
from facexp.sources.shots import Shot, Source
from facexp.timing import NullStream
from facexp_cli.demo import astronaut

GROWTH_MB = 2.0
# the p99 of wall time depends on other programs, so CPU time is compared, with a generous factor
SLOWER = 1.5
SLICES = 20


@dataclass(frozen=True)
class Slice:
    """Resident memory after some frames, and percentiles of wall and CPU time per frame."""

    frames: int
    rss_mb: float
    p50_ms: float
    p99_ms: float
    cpu_p50_ms: float
    cpu_p99_ms: float


class Loop:
    """A source that repeats a clip, with frame numbers and times that continue, so that the tracker sees one clip."""

    address = None

    def __init__(self, clip: Path, frames: int) -> None:
        self.name, self._source, self._frames = clip.name, Source(str(clip), PurePath(clip.name)), frames

    def shots(self, options: ReadOptions) -> Iterator[Shot]:
        numbers = itertools.count()
        while True:
            for shot in self._source.shots(options):
                number = next(numbers)
                if number == self._frames:
                    return
                fps = shot.fps or 25.0
                yield Shot(self.name, shot.save_as, number, 1000 * number / fps, shot.image, fps)


def slices(
    analyzer: facexp.Analyzer, clip: Path, frames: int, each: Callable[[], None] = lambda: None
) -> Iterator[Slice]:
    """Analyse the clip in a loop; yield SLICES slices after a warm-up of one. `each` is called after each frame."""
    size = frames // (SLICES + 1)
    sink = JsonlSink(NullStream())
    records = analyze_sources(analyzer, [Loop(clip, size * (SLICES + 1))])  # type: ignore[list-item]
    for number in range(SLICES + 1):
        wall, cpu = np.empty(size), np.empty(size)
        for row in range(size):
            start, used = time.perf_counter(), time.process_time()
            frame, shot = next(records)
            sink.write(frame, shot)
            each()
            wall[row], cpu[row] = time.perf_counter() - start, time.process_time() - used
        if number:
            times = [1e3 * float(np.percentile(values, p)) for values in (wall, cpu) for p in (50, 99)]
            yield Slice(size, rss_mb(), *times)


def growth_mb(found: list[Slice]) -> float:
    """Return the minimum memory of the last quarter minus the maximum of the first: fluctuations are not growth."""
    quarter = max(1, len(found) // 4)
    return min(part.rss_mb for part in found[-quarter:]) - max(part.rss_mb for part in found[:quarter])


def slowdown(found: list[Slice]) -> float:
    """Return the median CPU p99 of the second half over that of the first half."""
    half = len(found) // 2
    return float(np.median([part.cpu_p99_ms for part in found[half:]])) / float(
        np.median([part.cpu_p99_ms for part in found[:half]])
    )


def rss_mb() -> float:
    """Return the resident memory of the process, in MB of 10^6 bytes (Linux only)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def portrait_clip(path: Path) -> Path:
    """Write two seconds of a face that moves slightly and is absent in the last five frames."""
    image = cv2.resize(cv2.imread(str(astronaut())), (256, 256), interpolation=cv2.INTER_AREA)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (256, 256))
    for number in range(50):
        move = np.array([[1, 0, 4 * np.sin(number / 8)], [0, 1, 3 * np.cos(number / 8)]])
        shown = cv2.warpAffine(image, move, (256, 256), borderMode=cv2.BORDER_REPLICATE)
        writer.write(np.full_like(shown, 110) if number >= 45 else shown)
    writer.release()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--clip", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        clip = options.clip or portrait_clip(Path(folder, "portrait.mp4"))
        for part in slices(facexp.Analyzer("cpu", 1), clip, options.frames):
            found.append(part)
            print(
                f"{len(found) * part.frames:>8} frames: {part.rss_mb:7.1f} MB, p50 {part.p50_ms:6.2f} and p99 "
                f"{part.p99_ms:7.2f} ms a frame (CPU {part.cpu_p50_ms:.2f} and {part.cpu_p99_ms:.2f})",
                flush=True,
            )
    grown, slower = growth_mb(found), slowdown(found)
    flat = grown < GROWTH_MB and slower < SLOWER
    print(f"memory {grown:+.2f} MB, p99 x{slower:.2f}: {'flat' if flat else 'NOT FLAT'}")
    sys.exit(0 if flat else 1)


if __name__ == "__main__":
    main()
