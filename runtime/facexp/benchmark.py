"""How fast facexp is on this machine, stage by stage: what is compared is measured in turns within one run.

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
from facexp.pictures import save_picture
from facexp.pipeline import analyze_sources
from facexp.proof_device import read_golden
from facexp.session import Session, devices_to_try
from facexp.shots import Shot, Source
from facexp.sinks import JsonlSink
from facexp.sources import open_sources
from facexp.timing import Nowhere, Process, Spread, in_turns, peak_mb, run_process
from facexp.tracking import Tracker
from facexp.version import __version__

SCHEMA = 1

# a photo stands still for so many frames, of a clip so many are taken, as far as they fit
_FRAMES = 50
_FRAME_BYTES = 100_000_000
_FPS = 25.0
# the drawn portrait is made so high: a photo of a page, not of a camera
_DRAWN_HEIGHT = 450
_COLUMNS = ("least ms", "p50 ms", "p90 ms", "p99 ms", "ratio")
_ONE_PHOTO = "import sys, cv2, facexp; facexp.Analyzer('cpu').analyze(cv2.imread(sys.argv[1]))"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. Raises ValueError for a value out of its range."""

    sources: tuple[str, ...] = ()
    """Photos, folders, clips, as for `open_sources`; without any, a face that facexp draws."""
    threads: tuple[int, ...] = (1,)
    batch: tuple[int, ...] = (1, 8)
    """How many crops the networks get at once."""
    device: str = "auto"
    bundle: Path | None = None
    rounds: int = 50
    starts: int = 5
    """How many processes are started for the cold start; 0 leaves it out."""
    command: tuple[str, ...] = (sys.executable, "-P", "-c", _ONE_PHOTO)
    """What is started for it, with the name of a photo behind."""

    def __post_init__(self) -> None:
        numbers = {"threads": self.threads, "batch": self.batch, "rounds": (self.rounds,)}
        for name, values in numbers.items():
            if not values or min(values) < 1:
                raise ValueError(f"{name} must be at least 1, got {', '.join(map(str, values)) or 'none'}")
        if self.starts < 0:
            raise ValueError(f"starts must be at least 0, got {self.starts}")


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured."""

    group: str
    """ "stage", "network" or "process": rows of one group were measured in turns."""
    name: str
    """The stage: read, detect, keypoints, emotion, whole, track; the network; or "cold start"."""
    file: str | None
    """The network's file, "int8.onnx"; None where that is no network."""
    device: str
    """What really ran it: "cpu" or "cuda"."""
    threads: int | None
    """None: as many as it takes by itself."""
    batch: int
    """How many crops at once; 1 picture."""
    ms: Spread


@dataclass(frozen=True, slots=True)
class Report:
    """What was found."""

    schema: int
    facexp: str
    machine: dict[str, str | int]
    """Processor, cores, system, and the versions of what does the work."""
    sources: tuple[str, ...]
    picture: tuple[int, int]
    """Width and height of the first picture."""
    faces: float
    """Mean number of faces in a picture."""
    rows: tuple[Row, ...]
    peak_mb: float | None
    """The most memory that the benchmark itself held: several analyzers at once."""
    cold_mb: float | None
    """The most memory of a process that analyses one photo; None where it was left out."""
    cold_cpu_ms: float | None
    """CPU time of the fastest such process."""
    skipped: tuple[str, ...]
    """What could not be measured, and why."""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dataclasses.asdict(self)


def run(plan: Plan, progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> Report:
    """Measure. `progress` is told what is measured and how many of how many rounds are done.

    Raises SourceError for a source that cannot be read, BundleError, DetectorError, DeviceError as `Analyzer` does.
    """
    with tempfile.TemporaryDirectory(prefix="facexp-") as folder:
        names = plan.sources or (_drawn(Path(folder)),)
        sources = _files(names)
        analyzers = {number: Analyzer(plan.device, number, bundle=plan.bundle) for number in plan.threads}
        shot, faces = _first_look(analyzers[plan.threads[0]], sources)
        told = functools.partial(_Told, progress)
        before = cv2.getNumThreads()
        try:
            rows = _stages(analyzers, sources, plan.rounds, told)
        finally:
            cv2.setNumThreads(before)
        skipped: list[str] = []
        rows += _networks(plan, skipped, told)
        starts: list[Process] = []
        if plan.starts:
            starts = _cold(plan, Path(folder), shot, told, skipped)
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


class _Told:
    """Counts rounds for whoever watches."""

    def __init__(self, progress: Callable[[str, int, int], None], what: str, rounds: int) -> None:
        self._progress, self._what, self._total, self._done = progress, what, rounds + 1, 0
        progress(what, 0, self._total)

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._what, self._done, self._total)


def _drawn(folder: Path) -> str:
    picture = np.asarray(read_golden(shipped())["picture"], np.uint8)
    width = round(_DRAWN_HEIGHT * picture.shape[1] / picture.shape[0])
    large = cv2.resize(picture, (width, _DRAWN_HEIGHT), interpolation=cv2.INTER_CUBIC)
    save_picture(folder / "drawn.jpg", np.asarray(large, np.uint8))
    return str(folder / "drawn.jpg")


def _files(names: Sequence[str]) -> list[Source]:
    sources = list(open_sources(names))
    for source in sources:
        if source.problem is not None:
            raise SourceError(f"{source.name}: {source.problem}")
        if source.address is not None:
            raise SourceError(f"{source.name}: cameras, streams and pipes set their own pace: give photos or clips")
    if not sources:
        raise SourceError("nothing to read")
    return sources


def _first_look(analyzer: Analyzer, sources: list[Source]) -> tuple[Shot, float]:
    """The first picture, and how many faces there are on the average: every source is read before any is measured."""
    shots = [next(source.shots()) for source in sources]
    return shots[0], float(np.mean([len(analyzer.analyze(shot.image)) for shot in shots]))


def _stages(
    analyzers: dict[int, Analyzer], sources: list[Source], rounds: int, told: Callable[[str, int], _Told]
) -> list[Row]:
    rivals: dict[tuple[str, int], Callable[[], object]] = {}
    for threads, analyzer in analyzers.items():
        stages = _Stages(analyzer, threads, sources)
        for name in ("read", "detect", "keypoints", "emotion", "whole", "track"):
            rivals[name, threads] = getattr(stages, name)
    spreads = in_turns(rivals, rounds, step=told("stages", rounds))
    device = next(iter(analyzers.values())).device
    return [
        Row("stage", name, None, device if name not in ("read", "detect") else "cpu", threads, 1, spread)
        for (name, threads), spread in spreads.items()
    ]


class _Stages:
    """The stages of one analyzer, each with the next picture or with what the stage before gave."""

    def __init__(self, analyzer: Analyzer, threads: int, sources: list[Source]) -> None:
        self._analyzer, self._threads = analyzer, threads
        self._shots = _endless(sources)
        again = itertools.chain.from_iterable(itertools.repeat(sources))
        self._records = analyze_sources(analyzer, again, readers=0)
        self._sink = JsonlSink(Nowhere())
        self._frames = _frames(sources[0])
        self._tracker, self._tracked = Tracker(analyzer), 0

    def read(self) -> None:
        # what follows is measured with these threads; between two rivals others were set
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


def _endless(sources: list[Source]) -> Iterator[Shot]:
    while True:
        for source in sources:
            yield from source.shots()


def _frames(source: Source) -> list[Image]:
    """Frames for the tracker; they go forth and back, so that there is no cut where they begin again."""
    forth: list[Image] = []
    for shot in itertools.islice(source.shots(), _FRAMES):
        forth.append(shot.image)
        if sum(image.nbytes for image in forth) > _FRAME_BYTES:
            break
    return forth + forth[-2:0:-1]


def _networks(plan: Plan, skipped: list[str], told: Callable[[str, int], _Told]) -> list[Row]:
    """Every file of both networks that runs here, with each number of threads and of crops."""
    bundle = Bundle.load(plan.bundle)
    golden = read_golden(shipped())
    rivals: dict[tuple[str, str, str, int, int], Callable[[], object]] = {}
    for model in (bundle.keypoints, bundle.emotion):
        crops = golden[f"{model.name}_input"]
        for session, key, threads in _sessions(plan, bundle, model, skipped):
            for size in plan.batch:
                # of crops of another size it does not matter what they show
                several = np.ascontiguousarray(np.resize(crops, (size, *model.input.row)), dtype=np.uint8)
                rivals[model.name, key, session.device, threads, size] = functools.partial(session.run, several)
    spreads = in_turns(rivals, plan.rounds, step=told("networks", plan.rounds))
    return [
        Row("network", name, key, device, threads, size, spread)
        for (name, key, device, threads, size), spread in spreads.items()
    ]


def _sessions(plan: Plan, bundle: Bundle, model: ModelSpec, skipped: list[str]) -> Iterator[tuple[Session, str, int]]:
    for spec in model.files.values():
        if spec.format not in ENGINES:
            skipped.append(f"{model.name}.{spec.key}: the runtime has nothing that runs a {spec.format}")
            continue
        devices = devices_to_try(plan.device, "onnxruntime") if spec.format == "onnx" else ("cpu",)
        for threads in plan.threads:
            for device in devices:
                try:
                    session = Session(bundle.read(model, spec.key), model, spec.key, device=device, threads=threads)
                except (DeviceError, BundleError) as error:
                    reason = f"{model.name}.{spec.key} on {device}: {error}"
                    # it is the same with each number of threads
                    if reason not in skipped:
                        skipped.append(reason)
                    continue
                yield session, spec.key, threads


def _cold(plan: Plan, folder: Path, shot: Shot, told: Callable[[str, int], _Told], skipped: list[str]) -> list[Process]:
    photo = folder / "cold.jpg"
    save_picture(photo, shot.image)
    step, found = told("cold start", plan.starts), []
    for _ in range(plan.starts + 1):
        try:
            found.append(run_process((*plan.command, str(photo))))
        except RuntimeError as error:
            skipped.append(f"cold start: {error}")
            return []
        step()
    # the first has to read files that the others find in memory
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
    """The report for people: one line for each row, with the ratio to the first row of its kind."""
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    width, height = report.picture
    lines = [
        f"facexp {report.facexp}; {machine}",
        f"{', '.join(report.sources)}: {width}x{height}, {report.faces:.1f} faces a picture",
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
        lines.append(f"one photo in a process of its own: at most {report.cold_mb:.0f} MB")
    if report.peak_mb is not None:
        lines.append(f"this benchmark: at most {report.peak_mb:.0f} MB")
    return "\n".join(lines)
