"""Compare facexp's speed and memory on this machine with the promised limits.

    python benchmarks/floors.py [--rounds N] [--json FILE] [--install] [--only ROW]

Each line of the table has the measured value, the floor (the promise), the aim, and whether they are met. The inputs
are made from scikit-image's astronaut in a temporary folder. Everything is measured several times, in turns, and the
best value counts, because other programs only add time. On a busy machine read the CPU times and ratios in the details.
--install builds the wheel and installs it into an environment of its own, which requires a package index.

The floors were set on one machine. Its speed is known from the time of one network there, benchmarks/yardstick.py,
which is run here in turns with the other measurements. "On the floors' machine" is the measured value, converted by the
ratio of the yardstick's times; it is left out without facexp[train,export].
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
from facexp.sinks.records import JsonlSink
from facexp.sources import open_sources
from facexp.timing import NullStream, run_process
from facexp_cli.demo import astronaut

ROOT = Path(__file__).resolve().parent.parent
FRAMES, PHOTOS = 200, 8
"""Length of a clip, and number of photos in the folder of large photos."""
CORES = 2
"""The promise is for two cores."""

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    measured: float
    floor: float
    aim: float
    unit: str
    more: bool = False
    """Whether a larger value is better."""
    beside: str = ""
    """Details: parts of the value, CPU times and figures to compare it with."""
    pace: float | None = None
    """Time of the yardstick during this measurement, over its time where the floors were set; None without it."""

    def verdict(self, value: float) -> str:
        """Return "aim" or "floor" for the best limit that the value meets, else "missed"."""
        better = value >= self.aim if self.more else value <= self.aim
        enough = value >= self.floor if self.more else value <= self.floor
        return "aim" if better else "floor" if enough else "missed"

    @property
    def at_their_pace(self) -> float | None:
        """The measured value, converted to the speed of the machine on which the floors were set."""
        if self.pace is None:
            return None
        return self.measured * self.pace if self.more else self.measured / self.pace

    def __str__(self) -> str:
        sign, converted = ">=" if self.more else "<=", self.at_their_pace
        paced = (
            "" if converted is None else f"{converted:.3g} {self.unit} (x{self.pace:.2f}), {self.verdict(converted)}"
        )
        return (
            f"| {self.what} | {self.measured:.3g} {self.unit} | {sign} {self.floor:g} | {sign} {self.aim:g} "
            f"| {self.verdict(self.measured)} | {paced} | {self.beside} |"
        )


@dataclass(frozen=True)
class Times:
    """The shortest times of each call, in seconds."""

    wall: dict[str, float]
    cpu: dict[str, float]
    pace: float | None
    """As in `Line`."""


@dataclass(frozen=True)
class Bench:
    """The number of rounds, and the folder with the inputs."""

    rounds: int
    folder: Path

    def best(self, calls: Mapping[str, Callable[[], object]], each: int = 1, paced: bool = True) -> Times:
        """Run the calls in turns, in `each` times `self.rounds` rounds after one to warm up, and return the best times.

        With `paced` the yardstick is run too, for calls whose time is to be converted; other calls are only compared
        with each other.
        """
        reference = yardstick_call() if paced else None
        wall = dict.fromkeys(calls, float("inf"))
        cpu, here = dict(wall), float("inf")
        for number in range(self.rounds * each + 1):
            for name, call in calls.items():
                start, used = time.perf_counter(), time.process_time()
                call()
                if number:
                    wall[name] = min(wall[name], time.perf_counter() - start)
                    cpu[name] = min(cpu[name], time.process_time() - used)
            # once per `each` rounds, so that it runs equally often with many short rounds and with few long ones
            if reference is not None and number % each == 0:
                here = min(here, yardstick.seconds(reference))
        return Times(wall, cpu, None if reference is None else here / yardstick.REFERENCE_S["int8"])


@functools.cache
def yardstick_call() -> Callable[[], object] | None:
    """Return the yardstick network in int8, made at the first call; None if an extra is missing."""
    try:
        return yardstick.load()["int8"]
    except subprocess.CalledProcessError:
        print("no yardstick: it needs facexp[train,export]", file=sys.stderr)
        return None


def records(analyzer: facexp.Analyzer, path: Path, **options: bool) -> int:
    """Do what `facexp-infer PATH > faces.jsonl` does after its start; return the number of records."""
    sink, count = JsonlSink(NullStream()), 0
    for frame, shot in analyze_sources(analyzer, open_sources([str(path)]), ReadOptions(**options)):
        if frame.error is not None:
            raise SystemExit(frame.error)
        sink.write(frame, shot)
        count += 1
    return count


def networks(bench: Bench) -> Iterator[Line]:
    """Measure both networks on one face."""
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
    """Measure a small photo, from file to record."""
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
    """Measure clips with one face and with five."""
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
    """Measure a folder of 12-megapixel photos, relative to decoding them only."""
    place = bench.folder / "large"
    place.mkdir()
    # with noise like a camera's, so that decoding takes as long as for a real photo
    rng = np.random.default_rng(0)
    big = cv2.resize(portrait()[:384], (4000, 3000), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    data = cv2.imencode(
        ".jpg", np.clip(big + rng.normal(0, 6, big.shape), 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90]
    )[1]
    for number in range(PHOTOS):
        (place / f"{number}.jpg").write_bytes(data.tobytes())
    # like `facexp-infer`: several photos at once, with one thread each
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
    """Measure start-up time and memory of the commands."""
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
    """Measure the size of an installation with the extra `cpu`, without Python and pip."""
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
    """Return the size on disk as `du -sm` counts it, in whole blocks, including folders.

    The promise was made in this unit (OpenCV 162, numpy 73).
    """
    return sum(path.lstat().st_blocks for path in (folder, *folder.rglob("*"))) * 512 / 2**20


def portrait() -> Image:
    return np.asarray(cv2.imread(str(astronaut())), np.uint8)


def clip(path: Path, faces: int) -> Path:
    """Write a clip of a person who moves slightly, or of several in front of a gray wall."""
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


def decode_photos(place: Path, flags: int) -> None:
    def one(path: Path) -> None:
        cv2.imdecode(np.fromfile(path, np.uint8), flags)

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
    parser.add_argument(
        "--install", action="store_true", help="also measure the size of `pip install facexp[cpu]` on disk"
    )
    parser.add_argument("--only", action="append", choices=list(ROWS))
    options = parser.parse_args()
    with contextlib.suppress(AttributeError):
        # not available on all systems
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    # let Python keep compiled modules, as in an installation, so that a start does not compile them each time
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    wanted = options.only or [name for name in ROWS if name != "install" or options.install]
    print(
        "| | measured | floor | aim | met | on the floors' machine | details |\n"
        "| --- | --- | --- | --- | --- | --- | --- |"
    )
    lines = []
    with tempfile.TemporaryDirectory() as name:
        small = cv2.resize(portrait(), (450, 450), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(Path(name, "450.jpg")), small, [cv2.IMWRITE_JPEG_QUALITY, 92])
        bench = Bench(options.rounds, Path(name))
        for row in wanted:
            for line in ROWS[row](bench):
                print(line, flush=True)
                lines.append(asdict(line) | {"met": line.verdict(line.measured), "at_their_pace": line.at_their_pace})
    if options.json is not None:
        options.json.write_text(json.dumps(lines, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
