"""Is facexp as fast as promised here? python benchmarks/floors.py [--rounds N] [--json FILE] [--install] [--only ROW]

One line for each promise: measured, floor, aim, met or not. The inputs are made from the astronaut of scikit-image in a
temporary folder. Everything is measured in turns, several times, and the best counts: what other programs take is
noise. On a busy machine read the CPU times and ratios beside. --install builds the wheel and installs it into an
environment of its own, which needs the package index.

The floors are of one machine, whose pace is known by the time of one network there: benchmarks/yardstick.py, which
takes its turn beside what is measured. "At their pace" is what was measured, by how much longer the yardstick takes
here; it is left out without facexp[train,export].
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import yardstick
from numpy.typing import NDArray

import facexp
from facexp.pipeline import analyze_sources
from facexp.reading import ReadOptions
from facexp.session import Session
from facexp.sinks import JsonlSink
from facexp.sources import open_sources
from facexp.timing import Nowhere, run_process
from facexp_cli.demo import astronaut

ROOT = Path(__file__).resolve().parent.parent
FRAMES, PHOTOS = 200, 8
CORES = 2

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Line:
    what: str
    measured: float
    floor: float
    aim: float
    unit: str
    more: bool = False
    """More is better."""
    beside: str = ""
    pace: float | None = None
    """How many times as long the yardstick took in the meantime as where the floors were set."""

    def verdict(self, value: float) -> str:
        better = value >= self.aim if self.more else value <= self.aim
        enough = value >= self.floor if self.more else value <= self.floor
        return "aim" if better else "floor" if enough else "missed"

    @property
    def at_their_pace(self) -> float | None:
        if self.pace is None:
            return None
        return self.measured * self.pace if self.more else self.measured / self.pace

    def __str__(self) -> str:
        sign, there = ">=" if self.more else "<=", self.at_their_pace
        paced = "" if there is None else f"{there:.3g} {self.unit} (x{self.pace:.2f}), {self.verdict(there)}"
        return (
            f"| {self.what} | {self.measured:.3g} {self.unit} | {sign} {self.floor:g} | {sign} {self.aim:g} "
            f"| {self.verdict(self.measured)} | {paced} | {self.beside} |"
        )


@dataclass(frozen=True)
class Times:
    """The shortest of each, in seconds."""

    wall: dict[str, float]
    cpu: dict[str, float]
    pace: float | None


@dataclass(frozen=True)
class Bench:
    rounds: int
    folder: Path

    def best(self, calls: Mapping[str, Callable[[], object]], each: int = 1, paced: bool = True) -> Times:
        """Of `each` rounds as many as were asked for, in turns, after one that warms up.

        `paced`: the calls take as long as the processor does; others are compared with each other.
        """
        beside = yard() if paced else None
        wall = dict.fromkeys(calls, float("inf"))
        cpu, here = dict(wall), float("inf")
        for number in range(self.rounds * each + 1):
            for name, call in calls.items():
                start, used = time.perf_counter(), time.process_time()
                call()
                if number:
                    wall[name] = min(wall[name], time.perf_counter() - start)
                    cpu[name] = min(cpu[name], time.process_time() - used)
            # as often for many short rounds as for few long ones
            if beside is not None and number % each == 0:
                here = min(here, yardstick.seconds(beside))
        return Times(wall, cpu, None if beside is None else here / yardstick.THERE["int8"])


@functools.cache
def yard() -> Callable[[], object] | None:
    """The yardstick in int8, made when it is first wanted; None where an extra is missing."""
    try:
        return yardstick.load()["int8"]
    except subprocess.CalledProcessError:
        print("no yardstick: it needs facexp[train,export]", file=sys.stderr)
        return None


def records(analyzer: facexp.Analyzer, path: Path, **options: bool) -> int:
    """What `facexp-infer PATH > faces.jsonl` does once it has started."""
    sink, count = JsonlSink(Nowhere()), 0
    for frame, shot in analyze_sources(analyzer, open_sources([str(path)]), ReadOptions(**options)):
        if frame.error is not None:
            raise SystemExit(frame.error)
        sink.write(frame, shot)
        count += 1
    return count


def networks(bench: Bench) -> Iterator[Line]:
    bundle, face = facexp.Analyzer("cpu").bundle, cv2.cvtColor(portrait()[40:200, 145:305], cv2.COLOR_BGR2GRAY)
    for key in ("int8.onnx", "int8.tflite"):
        calls: dict[str, Callable[[], object]] = {}
        for model in (bundle.keypoints, bundle.emotion):
            crop = cv2.resize(face, (model.size, model.size), interpolation=cv2.INTER_AREA)[None, :, :, None]
            try:
                session = Session(bundle.read(model, key), model, key, threads=1)
            except facexp.DeviceError as error:
                print(f"{key}: {error}", file=sys.stderr)
                break
            calls[model.name] = functools.partial(session.run, crop)
        else:
            times = bench.best(calls, 100)
            each = ", ".join(f"{name} {1e3 * seconds:.2f}" for name, seconds in times.wall.items())
            yield Line(
                f"both networks, one face, one thread, {key}",
                *(1e3 * sum(times.wall.values()), 0.9, 0.5, "ms"),
                beside=each,
                pace=times.pace,
            )


def photo(bench: Bench) -> Iterator[Line]:
    path = bench.folder / "450.jpg"
    calls = {
        f"{threads or 'all'} threads": functools.partial(records, facexp.Analyzer("cpu", threads), path)
        for threads in (None, 1)
    }
    times = bench.best(calls, 20)
    beside = ", ".join(f"{name} {1e3 * times.wall[name]:.1f} (CPU {1e3 * times.cpu[name]:.1f})" for name in calls)
    shortest = 1e3 * min(times.wall.values())
    yield Line("a 450 px photo, decode to record", shortest, 8, 5, "ms", beside=beside, pace=times.pace)


def clips(bench: Bench) -> Iterator[Line]:
    analyzer = facexp.Analyzer("cpu")
    for faces, floor, aim in ((1, 200, 300), (5, 120, 200)):
        path = clip(bench.folder / f"{faces}.mp4", faces)
        calls = {"facexp": functools.partial(records, analyzer, path), "decoding": functools.partial(decode_clip, path)}
        times = bench.best(calls)
        ours, decoding = (1e3 * times.cpu[name] / FRAMES for name in calls)
        yield Line(
            f"clip 512x512, {faces} face(s), JSONL",
            *(FRAMES / times.wall["facexp"], floor, aim, "fps", True),
            beside=f"CPU {ours:.2f} ms a frame, of which decoding {decoding:.2f}",
            pace=times.pace,
        )


def large_photos(bench: Bench) -> Iterator[Line]:
    place = bench.folder / "large"
    place.mkdir()
    # as noisy as a camera's, so that there is as much to decode
    rng = np.random.default_rng(0)
    big = cv2.resize(portrait()[:384], (4000, 3000), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    data = cv2.imencode(
        ".jpg", np.clip(big + rng.normal(0, 6, big.shape), 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90]
    )[1]
    for number in range(PHOTOS):
        (place / f"{number}.jpg").write_bytes(data.tobytes())
    # as `facexp-infer` does it: several photos at once, one thread each
    analyzer, larger = facexp.Analyzer("cpu", 1), facexp.Analyzer("cpu", 1, min_face=400)
    calls: dict[str, Callable[[], object]] = {
        "facexp": functools.partial(records, analyzer, place, reduced=True),
        "facexp --min-face 400": functools.partial(records, larger, place, reduced=True),
        "facexp, all pixels": functools.partial(records, analyzer, place),
        "decoding": functools.partial(decode_photos, place, cv2.IMREAD_COLOR),
        "decoding 1/2": functools.partial(decode_photos, place, cv2.IMREAD_REDUCED_COLOR_2),
    }
    times = bench.best(calls, paced=False)
    beside = ", ".join(f"{name} {1e3 * times.wall[name] / PHOTOS:.1f} ms a photo" for name in calls)
    for against in ("decoding", "decoding 1/2"):
        ratio, by_cpu = (100 * seconds[against] / seconds["facexp"] for seconds in (times.wall, times.cpu))
        yield Line(
            f"folder of 12-megapixel photos, of {against} alone",
            *(ratio, 70, 85, "%", True),
            beside=f"by CPU time {by_cpu:.0f}%; {beside}",
        )


def processes(bench: Bench) -> Iterator[Line]:
    path = str(bench.folder / "450.jpg")
    infer = (sys.executable, "-c", "from facexp_cli.main import infer_main; infer_main()", path)
    commands = {
        "photo": infer,
        "imports": (sys.executable, "-c", "import numpy, cv2, onnxruntime"),
        "help": (sys.executable, "-c", "from facexp_cli.main import main; main()", "--help"),
        "python": (sys.executable, "-c", "pass"),
    }
    runs = {name: [] for name in commands}
    for _ in range(5 * bench.rounds):
        for name, command in commands.items():
            runs[name].append(run_process(command))
    wall = {name: min(run.seconds for run in found) for name, found in runs.items()}
    cpu = {name: min(run.cpu_seconds or 0 for run in found) for name, found in runs.items()}
    peak = {name: max(run.peak_mb or 0 for run in found) for name, found in runs.items()}
    beside = (
        f"CPU {cpu['photo']:.2f}; importing numpy, cv2, onnxruntime {wall['imports']:.2f} (CPU {cpu['imports']:.2f})"
    )
    yield Line("cold start, one photo", wall["photo"], 0.45, 0.25, "s", beside=beside)
    yield Line("memory of that process", peak["photo"], 120, 90, "MB", beside=f"imports {peak['imports']:.0f}")
    beside = f"CPU {cpu['help']:.2f}; Python alone {wall['python']:.2f} (CPU {cpu['python']:.2f})"
    yield Line("facexp --help", wall["help"], 0.2, 0.1, "s", beside=beside)


def installed(bench: Bench) -> Iterator[Line]:
    """The wheel with its extra `cpu`, without Python and pip."""
    folder = bench.folder
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = functools.partial(subprocess.run, check=True, stdout=subprocess.DEVNULL, env=alone)
    run([sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)])
    (wheel,) = folder.glob("*.whl")
    home = folder / "environment"
    run([sys.executable, "-m", "venv", str(home)])
    (packages,) = home.glob("lib/python*/site-packages")
    before = size_mib(packages)
    run([home / "bin" / "python", "-m", "pip", "install", "-q", f"{wheel}[cpu]"])
    parts = {path.name: size_mib(path) for path in packages.iterdir() if path.is_dir()}
    largest = sorted(parts.items(), key=lambda part: -part[1])[:8]
    beside = ", ".join(f"{name} {megabytes:.0f}" for name, megabytes in largest)
    yield Line("pip install facexp[cpu], on disk", size_mib(packages) - before, 345, 315, "MiB", beside=beside)


def size_mib(folder: Path) -> float:
    """What `du -sm` says: whole blocks, folders with them. The promise was made in this unit (OpenCV 162, numpy 73)."""
    return sum(path.lstat().st_blocks for path in (folder, *folder.rglob("*"))) * 512 / 2**20


def portrait() -> Image:
    return np.asarray(cv2.imread(str(astronaut())), np.uint8)


def clip(path: Path, faces: int) -> Path:
    """People who move a little in front of a gray wall."""
    image = portrait()
    if faces > 1:
        image, face = (
            np.full_like(image, 110),
            cv2.resize(image[20:230, 110:350], (160, 140), interpolation=cv2.INTER_AREA),
        )
        for number in range(faces):
            x, y = 5 + number % 3 * 170, 40 + number // 3 * 230
            image[y : y + 140, x : x + 160] = face
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (512, 512))
    for number in range(FRAMES):
        move = np.array([[1, 0, 4 * np.sin(number / 9)], [0, 1, 3 * np.cos(number / 7)]])
        writer.write(cv2.warpAffine(image, move, (512, 512), borderMode=cv2.BORDER_REPLICATE))
    writer.release()
    return path


def decode_clip(path: Path) -> None:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    while capture.read()[0]:
        pass
    capture.release()


def decode_photos(place: Path, how: int) -> None:
    def one(path: Path) -> None:
        cv2.imdecode(np.fromfile(path, np.uint8), how)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(one, sorted(place.iterdir())))


ROWS = {
    "networks": networks,
    "photo": photo,
    "clips": clips,
    "large": large_photos,
    "processes": processes,
    "install": installed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--install", action="store_true", help="also how much `pip install facexp[cpu]` takes on disk")
    parser.add_argument("--only", action="append", choices=list(ROWS))
    asked = parser.parse_args()
    with contextlib.suppress(AttributeError):
        # the promise is for two cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    # what is installed has been compiled: its start does not compile it once more
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    wanted = asked.only or [name for name in ROWS if name != "install" or asked.install]
    print("| | measured | floor | aim | met | at their pace | beside |\n| --- | --- | --- | --- | --- | --- | --- |")
    lines = []
    with tempfile.TemporaryDirectory() as name:
        small = cv2.resize(portrait(), (450, 450), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(Path(name, "450.jpg")), small, [cv2.IMWRITE_JPEG_QUALITY, 92])
        bench = Bench(asked.rounds, Path(name))
        for row in wanted:
            for line in ROWS[row](bench):
                print(line, flush=True)
                lines.append(asdict(line) | {"met": line.verdict(line.measured), "at_their_pace": line.at_their_pace})
    if asked.json is not None:
        asked.json.write_text(json.dumps(lines, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
