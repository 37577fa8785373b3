"""Compare Ray with the plain run on the same face crops: python benchmarks/many.py [COUNT] [ROUNDS]

Measure the work of the head node without the analysis: python benchmarks/many.py head [PARTS]

The runs alternate, each in a process of its own, on all cores, from image files to written rows. The rate is measured
from the first picture to the last row; the time before that is the start. CPU seconds are those of all processes after
the start, for Ray including its own processes (raylet, object store, head). On a busy machine read the ratio, and the
CPU seconds rather than the rate.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from facexp.cores import cores
from facexp_cli.demo import astronaut

# by default Ray's workers run at a lower priority than other processes; on a busy machine that would distort the ratio
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112


def write_crops(folder: Path, count: int) -> None:
    """Write `count` PNG files of 96 px, random crops of the astronaut's face."""
    photo, rng = cv2.imread(str(astronaut())), np.random.default_rng(0)
    for number in range(count):
        x, y, side = rng.integers(110, 150), rng.integers(0, 40), rng.integers(170, 220)
        crop = cv2.resize(photo[y : y + side, x : x + side], (96, 96), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.convertScaleAbs(crop, alpha=rng.uniform(0.7, 1.1)))


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and all its descendants."""
    tick, times, parents = os.sysconf("SC_CLK_TCK"), {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid], times[pid] = int(fields[1]), sum(map(int, fields[11:15])) / tick
    total, todo = 0.0, [os.getpid()]
    while todo:
        pid = todo.pop()
        total += times.get(pid, 0.0)
        todo += [child for child, parent in parents.items() if parent == pid]
    return total


def plain(folder: Path, out: Path) -> dict[str, float]:
    """Analyse the crops in this process; return "start" and "seconds" (wall time) and "cpu" (CPU seconds)."""
    begin = time.time()
    from facexp import Analyzer
    from facexp.pipeline import analyze_sources, share_threads
    from facexp.sinks.records import JsonlSink
    from facexp.sources import open_sources

    analyzer = Analyzer(threads=share_threads(list(itertools.islice(open_sources([str(folder)]), 2)))[0])
    start, cpu = time.time(), cpu_seconds()
    with out.open("w") as file:
        sink = JsonlSink(file)
        for frame, shot in analyze_sources(analyzer, open_sources([str(folder)]), face_crops=True):
            sink.write(frame, shot)
    return {"start": start - begin, "seconds": time.time() - start, "cpu": cpu_seconds() - cpu}


def ray(folder: Path, out: Path) -> dict[str, float]:
    """Analyse the crops with Ray; return the same figures as `plain`."""
    begin = time.time()
    from facexp.many import ManyImages, Settings

    parts, cpu = [], 0.0
    for part in ManyImages([str(folder)], out, Settings(face_crops=True)).run():
        if not parts:
            # the first part is done at this point; its CPU time is estimated below
            cpu = cpu_seconds()
        parts.append(part)
        end = cpu_seconds()
    start = min(part.start_s for part in parts)
    total = sum(part.sources for part in parts)
    later = total - parts[0].sources
    return {
        "start": start - begin,
        "seconds": max(part.end_s for part in parts) - start,
        # not known if there is only one part
        "cpu": (end - cpu) * total / later if later else math.nan,
    }


def head(count: int) -> None:
    """Measure the work of the head: listing the sources, dividing them into parts, and following each part."""
    from facexp.many import ManyImages
    from facexp.many import plan as planning

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "album")
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.jpg").touch()
        cpu = time.process_time()
        plan = planning.Plan.of([str(folder)])
        listed = time.process_time() - cpu
        # the first table imports modules that Arrow needs
        plan.parts(plan.items[:1], 1, 0)
        cpu = time.process_time()
        plan.parts(plan.items, 1, 0)
        cut = time.process_time() - cpu
        # parts of one empty file each, which take a worker almost no time
        planning.MAX_PART_SOURCES = 1
        cpu, parts = time.process_time(), list(ManyImages([str(folder)], Path(name, "out")).run())
        followed = time.process_time() - cpu - listed - cut
        wall = max(part.end_s for part in parts) - min(part.start_s for part in parts)
        written = sum(part.end_s - part.start_s for part in parts)
        # subtract the time for starting and stopping Ray
        cpu = time.process_time()
        list(ManyImages([f"{folder}/0.jpg"], Path(name, "one")).run())
        followed -= time.process_time() - cpu
    seconds = 1e6 * listed / count, 1e6 * cut / count
    print("for a million files {:.1f} s of CPU to list them, {:.1f} s to divide them into parts".format(*seconds))
    print(f"{1e3 * followed / count:.2f} ms of CPU for each part, {count / wall:.0f} parts/s at most here")
    print(f"{1e3 * written / count:.1f} ms in a worker to start and write a part of one row")


def main() -> None:
    if sys.argv[1:2] == ["head"]:
        head(int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
        return
    if sys.argv[1:2] == ["run"]:
        print(json.dumps({"plain": plain, "ray": ray}[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    found: dict[str, list[dict[str, float]]] = {"plain": [], "ray": []}
    with tempfile.TemporaryDirectory() as name:
        crops = Path(name, "crops")
        crops.mkdir()
        write_crops(crops, count)
        for number in range(rounds):
            for kind, results in found.items():
                command = [sys.executable, __file__, "run", kind, str(crops), str(Path(name, f"{kind}{number}"))]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
                results.append(json.loads(done.stdout))
                one = results[-1]
                print(
                    f"{kind:<6} start {one['start']:6.1f} s, {count / one['seconds']:7.1f} crops/s, "
                    f"{1000 * one['cpu'] / count:5.2f} ms of CPU a crop",
                    flush=True,
                )
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(found["plain"], found["ray"], strict=True)]
    costs = [b["cpu"] / a["cpu"] for a, b in zip(found["plain"], found["ray"], strict=True)]
    print(f"{count} crops on {cores()} cores, ray over plain: speed x{statistics.median(ratios):.2f}")
    start = statistics.median(one["start"] for one in found["ray"])
    print(f"CPU seconds x{statistics.median(costs):.2f}, start {start:.1f} s")


if __name__ == "__main__":
    main()
