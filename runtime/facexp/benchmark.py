"""Measure how fast facexp is on this machine, stage by stage.

Calls that are to be compared are measured in turns within one run, so that other load slows all of them alike.

report = run(Plan(threads=(1, 2)))
print(table(report))
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facexp.analyzer import Analyzer
from facexp.bundle import Bundle, ModelSpec, shipped
from facexp.cores import cores
from facexp.engines import ENGINES
from facexp.errors import BundleError, DeviceError, SourceError
from facexp.geometry import Image, to_gray
from facexp.pipeline import analyze_sources
from facexp.proof.device import read_golden
from facexp.session import Session, devices_to_try
from facexp.sinks.pictures import save_picture
from facexp.sinks.records import JsonlSink
from facexp.sources import open_sources
from facexp.sources.shots import Shot, Source
from facexp.timing import NullStream, Process, Spread, in_turns, peak_mb, run_process
from facexp.tracking import Tracker
from facexp.version import __version__

SCHEMA = 1

# the tracker is measured on at most this many frames of the first source, until they exceed this many bytes
_MAX_FRAMES = 50
_MAX_FRAME_BYTES = 100_000_000
_FPS = 25.0
# height in pixels of the drawn portrait: as a photo on a web page, not one from a camera
_PORTRAIT_HEIGHT = 450
_COLUMNS = ("least ms", "p50 ms", "p90 ms", "p99 ms", "ratio")
_ONE_PHOTO = """import sys, cv2, facexp
*_, bundle, photo = None, *sys.argv[1:]
facexp.Analyzer("cpu", bundle=bundle).analyze(cv2.imread(photo))"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. Raises ValueError for a value out of its range."""

    sources: tuple[str, ...] = ()
    """Photos, folders and clips, as for `open_sources`; if empty, a face that facexp draws."""
    threads: tuple[int, ...] = (1,)
    """Numbers of threads to compare."""
    batch: tuple[int, ...] = (1, 8)
    """Batch sizes to compare: how many crops a network processes in one call."""
    device: str = "auto"
    bundle: Path | None = None
    """Directory of another model bundle; None: the shipped one."""
    rounds: int = 50
    """How often each call is measured."""
    starts: int = 5
    """How many processes are measured for the cold start; 0 skips it."""
    command: tuple[str, ...] = (sys.executable, "-P", "-c", _ONE_PHOTO)
    """The command that is started for the cold start; --bundle and its directory, if `bundle` is given, and the path of
    a photo are appended."""

    def __post_init__(self) -> None:
        numbers = {"threads": self.threads, "batch": self.batch, "rounds": (self.rounds,)}
        for name, values in numbers.items():
            if not values or min(values) < 1:
                raise ValueError(f"{name} must be at least 1, got {', '.join(map(str, values)) or 'none'}")
        if self.starts < 0:
            raise ValueError(f"starts must be at least 0, got {self.starts}")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured call."""

    group: str
    """ "stage", "network" or "process"; the rows of one group were measured in turns."""
    name: str
    """The stage ("read", "detect", "keypoints", "emotion", "whole", "track"), the network, or "cold start"."""
    file: str | None
    """Key of the network's file, such as "int8.onnx"; None unless a network was measured."""
    device: str
    """The device that really ran it: "cpu" or "cuda"."""
    threads: int | None
    """Number of threads; None: not limited."""
    batch: int
    """Crops per call; 1 for stages and processes, which take one picture."""
    ms: Spread


@dataclass(frozen=True, slots=True)
class Report:
    """The results of one benchmark."""

    schema: int
    facexp: str
    machine: dict[str, str | int]
    """Processor, cores and system of this machine, and versions of Python and the libraries."""
    sources: tuple[str, ...]
    picture: tuple[int, int]
    """Width and height of the first picture, in pixels."""
    faces: float
    """Mean number of faces in the first picture of each source."""
    rows: tuple[Row, ...]
    peak_mb: float | None
    """Peak memory of the benchmark itself, which holds several analyzers at once, in MB of 10^6 bytes."""
    cold_mb: float | None
    """Peak memory of a process that analyses one photo, in MB; None if it was not measured."""
    cold_cpu_ms: float | None
    """Least CPU time of such a process, in ms; None if it was not measured."""
    skipped: tuple[str, ...]
    """What could not be measured, and why, one line each."""

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON data."""
        return dataclasses.asdict(self)


def run(plan: Plan, progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> Report:
    """Run the benchmark.

    `progress(what, done, total)` is called at the start of each measurement and after each of its rounds.

    Raises SourceError for a source that cannot be read; BundleError, DetectorError and DeviceError as `Analyzer` does.
    """
    with tempfile.TemporaryDirectory(prefix="facexp-") as folder:
        names = plan.sources or (_save_portrait(Path(folder)),)
        sources = _files(names)
        analyzers = {number: Analyzer(plan.device, number, bundle=plan.bundle) for number in plan.threads}
        shot, faces = _analyze_first(analyzers[plan.threads[0]], sources)
        new_counter = functools.partial(_RoundCounter, progress)
        opencv_threads = cv2.getNumThreads()
        try:
            rows = _stages(analyzers, sources, plan.rounds, new_counter)
        finally:
            cv2.setNumThreads(opencv_threads)
        skipped: list[str] = []
        rows += _networks(plan, skipped, new_counter)
        starts: list[Process] = []
        if plan.starts:
            starts = _cold_starts(plan, Path(folder), shot, new_counter, skipped)
    if starts:
        spread = Spread.of([1e3 * start.seconds for start in starts])
        rows.append(Row("process", "cold start", None, "cpu", None, 1, spread))
    peaks = [start.peak_mb for start in starts if start.peak_mb is not None]
    cpu = [1e3 * start.cpu_seconds for start in starts if start.cpu_seconds is not None]
    return Report(
        SCHEMA,
        __version__,
        _machine(),
        plan.sources or ("drawn face",),
        shot.size,
        faces,
        tuple(rows),
        peak_mb(),
        max(peaks, default=None),
        min(cpu, default=None),
        tuple(skipped),
    )


class _RoundCounter:
    """Counts the rounds of one measurement, and reports each to `progress`."""

    def __init__(self, progress: Callable[[str, int, int], None], what: str, rounds: int) -> None:
        self._progress, self._what, self._total, self._done = progress, what, rounds + 1, 0
        progress(what, 0, self._total)

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._what, self._done, self._total)


def _save_portrait(folder: Path) -> str:
    picture = np.asarray(read_golden(shipped())["picture"], np.uint8)
    width = round(_PORTRAIT_HEIGHT * picture.shape[1] / picture.shape[0])
    large = cv2.resize(picture, (width, _PORTRAIT_HEIGHT), interpolation=cv2.INTER_CUBIC)
    save_picture(folder / "drawn.jpg", np.asarray(large, np.uint8))
    return str(folder / "drawn.jpg")


def _files(names: Sequence[str]) -> list[Source]:
    sources = list(open_sources(names))
    for source in sources:
        if source.problem is not None:
            raise SourceError(f"{source.name}: {source.problem}")
        if source.address is not None:
            raise SourceError(
                f"{source.name}: cameras, streams and pipes have a rate of their own: give photos or clips"
            )
    if not sources:
        raise SourceError("nothing to read")
    return sources


def _analyze_first(analyzer: Analyzer, sources: list[Source]) -> tuple[Shot, float]:
    """Return the first shot, and the mean number of faces in the first shot of each source.

    Every source is read once before anything is measured: one that cannot be read fails here.
    """
    shots = [next(source.shots()) for source in sources]
    return shots[0], float(np.mean([len(analyzer.analyze(shot.image)) for shot in shots]))


def _stages(
    analyzers: dict[int, Analyzer], sources: list[Source], rounds: int, new_counter: Callable[[str, int], _RoundCounter]
) -> list[Row]:
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    for threads, analyzer in analyzers.items():
        stages = _Stages(analyzer, threads, sources)
        for name in ("read", "detect", "keypoints", "emotion", "whole", "track"):
            calls[name, threads] = getattr(stages, name)
    spreads = in_turns(calls, rounds, step=new_counter("stages", rounds))
    device = next(iter(analyzers.values())).device
    return [
        Row("stage", name, None, device if name not in ("read", "detect") else "cpu", threads, 1, spread)
        for (name, threads), spread in spreads.items()
    ]


class _Stages:
    """The stages of one analyzer, as calls. Each takes the next picture, or the results of the stage before."""

    def __init__(self, analyzer: Analyzer, threads: int, sources: list[Source]) -> None:
        self._analyzer, self._threads = analyzer, threads
        self._shots = (shot for source in itertools.cycle(sources) for shot in source.shots())
        self._records = analyze_sources(analyzer, itertools.cycle(sources), readers=0)
        self._sink = JsonlSink(NullStream())
        self._frames = _frames(sources[0])
        self._tracker, self._tracked = Tracker(analyzer), 0

    def read(self) -> None:
        # set OpenCV's threads for the stages that follow: another analyzer's stages may have changed them
        cv2.setNumThreads(self._threads)
        self._image = next(self._shots).image

    def detect(self) -> None:
        self._candidates = self._analyzer.detect(self._image)

    def keypoints(self) -> None:
        self._gray = to_gray(self._image)
        self._faces, self._found = self._analyzer.confirm(self._gray, self._candidates)

    def emotion(self) -> None:
        self._analyzer.read_emotions([self._gray] * len(self._faces), self._found)

    def whole(self) -> None:
        frame, shot = next(self._records)
        self._sink.write(frame, shot)

    def track(self) -> None:
        number, self._tracked = self._tracked, self._tracked + 1
        self._tracker.track(self._frames[number % len(self._frames)], 1000 * number / _FPS)


def _frames(source: Source) -> list[Image]:
    """Return frames for the tracker: forward, then backward, so that they can be repeated without a jump."""
    frames: list[Image] = []
    for shot in itertools.islice(source.shots(), _MAX_FRAMES):
        frames.append(shot.image)
        if sum(image.nbytes for image in frames) > _MAX_FRAME_BYTES:
            break
    return frames + frames[-2:0:-1]


def _networks(plan: Plan, skipped: list[str], new_counter: Callable[[str, int], _RoundCounter]) -> list[Row]:
    """Measure each file of both networks that runs here, with each number of threads and each batch size."""
    bundle = Bundle.load(plan.bundle)
    golden = read_golden(shipped())
    calls: dict[tuple[str, str, str, int, int], Callable[[], object]] = {}
    for model in (bundle.keypoints, bundle.emotion):
        crops = golden[f"{model.name}_input"]
        for session, key, threads in _sessions(plan, bundle, model, skipped):
            for size in plan.batch:
                # the crops repeat or are cut to fit: their content does not change the time
                crop_batch = np.ascontiguousarray(np.resize(crops, (size, *model.input.row)), dtype=np.uint8)
                calls[model.name, key, session.device, threads, size] = functools.partial(session.run, crop_batch)
    spreads = in_turns(calls, plan.rounds, step=new_counter("networks", plan.rounds))
    return [
        Row("network", name, key, device, threads, size, spread)
        for (name, key, device, threads, size), spread in spreads.items()
    ]


def _sessions(plan: Plan, bundle: Bundle, model: ModelSpec, skipped: list[str]) -> Iterator[tuple[Session, str, int]]:
    for spec in model.files.values():
        if spec.format not in ENGINES:
            skipped.append(f"{model.name}.{spec.key}: the runtime has no engine for {spec.format}")
            continue
        devices = devices_to_try(plan.device, "onnxruntime") if spec.format == "onnx" else ("cpu",)
        for threads in plan.threads:
            for device in devices:
                try:
                    session = Session(bundle.read(model, spec.key), model, spec.key, device=device, threads=threads)
                except (DeviceError, BundleError) as error:
                    reason = f"{model.name}.{spec.key} on {device}: {error}"
                    # the reason is the same for each number of threads: list it once
                    if reason not in skipped:
                        skipped.append(reason)
                    continue
                yield session, spec.key, threads


def _cold_starts(
    plan: Plan, folder: Path, shot: Shot, new_counter: Callable[[str, int], _RoundCounter], skipped: list[str]
) -> list[Process]:
    photo = folder / "cold.jpg"
    save_picture(photo, shot.image)
    command = (*plan.command, *(() if plan.bundle is None else ("--bundle", str(plan.bundle))), str(photo))
    step, found = new_counter("cold start", plan.starts), []
    for _ in range(plan.starts + 1):
        try:
            found.append(run_process(command))
        except RuntimeError as error:
            skipped.append(f"cold start: {error}")
            return []
        step()
    # drop the first process: it reads files from disk that the others find in the page cache
    return found[1:]


def _machine() -> dict[str, str | int]:
    machine: dict[str, str | int] = {
        "processor": platform.processor() or platform.machine(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }
    for name, module in (("onnxruntime", "onnxruntime"), ("litert", "ai_edge_litert")):
        if (found := sys.modules.get(module)) is not None:
            machine[name] = str(getattr(found, "__version__", "unknown"))
    return machine


def table(report: Report) -> str:
    """Return the report as text: one line per row, with the ratio of its p50 to that of the first comparable row."""
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    width, height = report.picture
    lines = [
        f"facexp {report.facexp}; {machine}",
        f"{', '.join(report.sources)}: {width}x{height}, {report.faces:.1f} faces per picture",
        "",
        f"{'':<28}{'device':<8}{'threads':>7}{'batch':>7}" + "".join(f"{name:>10}" for name in _COLUMNS),
    ]
    firsts: dict[tuple[str, str, int], float] = {}
    for row in report.rows:
        first = firsts.setdefault((row.group, row.name, row.batch), row.ms.p50)
        name = row.name if row.file is None else f"{row.name} {row.file}"
        threads = "-" if row.threads is None else str(row.threads)
        times = "".join(f"{ms:>10.2f}" for ms in (row.ms.least, row.ms.p50, row.ms.p90, row.ms.p99, row.ms.p50 / first))
        lines.append(f"{name:<28}{row.device:<8}{threads:>7}{row.batch:>7}{times}")
    lines.append("")
    if report.cold_mb is not None:
        lines.append(f"peak memory of a process that analyses one photo: {report.cold_mb:.0f} MB")
    if report.peak_mb is not None:
        lines.append(f"peak memory of this benchmark: {report.peak_mb:.0f} MB")
    return "\n".join(lines)
