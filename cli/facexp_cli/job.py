"""A run of `facexp-infer`: read the sources, analyse them, write to the sinks, return an exit status."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from facexp.analyzer import AnalyzerOptions
    from facexp.reading import ReadOptions
    from facexp.sinks.pictures import PictureSink
    from facexp.sinks.preview import Preview
    from facexp.sinks.records import Sink, Stream
    from facexp.sources import Listed
    from facexp.sources.shots import Shot
    from facexp.types import Frame
    from facexp_cli.console import Progress, Signals


@dataclass(frozen=True, slots=True)
class Job:
    """The options of one run."""

    sources: tuple[str, ...]
    form: str | None
    save: Path | None
    preview: tuple[str, int] | None
    emotions: str | None
    labels: str | None
    face_crops: bool
    device: str
    backend: str
    threads: int | None
    min_score: float
    min_face: float
    max_faces: int | None
    every: int
    max_fps: float | None
    start: float
    duration: float | None
    policy: Literal["latest", "all"] | None
    timeout: float
    raw: tuple[int, int] | None
    detect_every: int | None
    smooth: float
    detector: Path | None
    bundle: Path | None
    engine: Literal["local", "ray"]
    out: str | None
    resume: bool
    workers: int | None
    gpus_per_worker: float
    ray_address: str | None
    quiet: bool
    verbose: bool

    def analyzer_options(self) -> AnalyzerOptions:
        """Return the options of the analyzer."""
        from facexp.analyzer import AnalyzerOptions

        return AnalyzerOptions(
            device=self.device,
            threads=self.threads,
            emotions=self.emotions,
            labels=self.labels,
            backend=self.backend,
            detector=self.detector,
            bundle=self.bundle,
            min_score=self.min_score,
            min_face=self.min_face,
            max_faces=self.max_faces,
        )

    def read_options(self) -> ReadOptions:
        """Return the options for reading the sources."""
        from facexp.reading import ReadOptions

        return ReadOptions(
            self.every,
            self.max_fps,
            self.start,
            self.duration,
            self.policy,
            timeout_s=self.timeout,
            raw=self.raw,
            # saved and previewed pictures need full resolution
            reduced=self.save is None and self.preview is None,
        )


def run(job: Job) -> int:
    """Run the job and return the exit status."""
    from facexp_cli.console import Signals, Stop, notes, quiet_libraries

    level = logging.ERROR if job.quiet else logging.INFO if job.verbose else logging.WARNING
    # FFmpeg's messages about an address may contain its password
    addresses = any("://" in name or name.startswith("@") for name in job.sources)
    with quiet_libraries(addresses or not job.verbose), notes(level):
        try:
            with Signals() as signals:
                if job.engine == "local":
                    return _run(job, signals)
                # imported only here: the progress bar's import takes longer than the analysis of a photo
                from facexp_cli.many import run_many

                return run_many(job)
        except Stop as stop:
            return stop.status


def _run(job: Job, signals: Signals) -> int:
    with _without_gc():
        # heavy imports, which --help and wrong usage do not need; a signal during an import would leave a module half
        # initialised, or be swallowed
        with signals.deferred():
            import cv2

            from facexp import FacexpError
            from facexp.address import STDIN
            from facexp.pipeline import analyze_sources, share_threads
            from facexp.sinks.clip_file import SinkError
            from facexp.sinks.pictures import PictureSink
            from facexp.sources import listed, open_sources
            from facexp_cli.console import Output, Progress

        # a list that comes through a pipe can be read only once
        names = list(listed(job.sources))
        if job.raw is not None and all(name != STDIN for name, _ in names):
            raise click.UsageError("--raw is for standard input: name the source -")
        try:
            pictures = None if job.save is None else PictureSink(job.save, names)
        except SinkError as error:
            raise click.UsageError(f"--save {error}") from None
        preview = None if job.preview is None else _preview(*job.preview, job.quiet)
        if job.threads is not None:
            cv2.setNumThreads(job.threads)
        sources = open_sources(names, job.save)
        first = list(itertools.islice(sources, 2))
        threads, readers = share_threads(first, job.threads)
        try:
            # this imports onnxruntime or LiteRT, see above
            with signals.deferred():
                analyzer = replace(job.analyzer_options(), threads=threads).open()
        except (FacexpError, ValueError) as error:
            raise click.ClickException(str(error)) from None
    logger = logging.getLogger("facexp")
    logger.info("models %s %s on %s", analyzer.bundle.name, analyzer.bundle.version, analyzer.device)
    shown = not job.quiet and sys.stderr.isatty()
    files = sum(1 for _ in open_sources(names, job.save)) if shown else None
    sink = line_sink(Output(signals), job.form, analyzer.labels)
    if job.duration is None:
        _warn_of_endless_source(names)
    frames = analyze_sources(
        analyzer,
        itertools.chain(first, sources),
        job.read_options(),
        job.face_crops,
        detect_every=job.detect_every,
        smooth=job.smooth,
        readers=readers,
    )
    start = time.perf_counter()
    tally = _Tally()
    with preview or contextlib.nullcontext(), Progress(files, shown) as progress:
        tally.take(frames, sink, pictures, preview, progress)
    seconds = time.perf_counter() - start
    logger.info("%d pictures, %d faces in %.1f s", tally.pictures, tally.faces, seconds)
    return 1 if tally.failed else 0


@contextlib.contextmanager
def _without_gc() -> Iterator[None]:
    """Exclude objects created inside the block from garbage collection, now and later: they live until the end.

    This makes the analysis of one photo, as a process, a tenth faster.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _preview(host: str, port: int, quiet: bool) -> Preview:
    from facexp.sinks.preview import Preview, PreviewError
    from facexp_cli.console import stderr_message

    try:
        preview = Preview(host, port)
    except PreviewError as error:
        raise click.UsageError(f"--preview {error}") from None
    if preview.public:
        stderr_message(
            "Warning", "the preview is open to the network: everyone who can reach this machine can see the pictures"
        )
    if not quiet:
        stderr_message("Note", f"the preview is at {preview.url}")
    return preview


def _warn_of_endless_source(names: Iterable[Listed]) -> None:
    """Warn if a source comes after a live one, which may never end."""
    from facexp.address import is_live, redacted

    before = None
    for name, _ in names:
        if before is not None:
            waits = "%s is read until it ends, and only then the sources after it: --duration ends it earlier"
            logging.getLogger("facexp").warning(waits, redacted(before))
            return
        before = name if is_live(name) else None


def line_sink(stream: Stream, form: str | None, labels: Sequence[str]) -> Sink:
    """Return the sink for an output format; None is text on a terminal, JSON lines otherwise."""
    from facexp.sinks.records import CsvSink, JsonlSink, TextSink

    form = form or ("text" if sys.stdout.isatty() else "jsonl")
    if form == "csv":
        return CsvSink(stream, labels)
    return TextSink(stream) if form == "text" else JsonlSink(stream)


class _Tally:
    """Passes each frame to the sinks and counts pictures, faces and failures."""

    def __init__(self) -> None:
        self.pictures = 0
        self.faces = 0
        self.failed = False

    def take(
        self,
        frames: Iterable[tuple[Frame, Shot | None]],
        sink: Sink,
        pictures: PictureSink | None,
        preview: Preview | None,
        progress: Progress,
    ) -> None:
        with pictures or contextlib.nullcontext():
            for frame, shot in frames:
                sink.write(frame, shot)
                if frame.error is not None:
                    self._fail(frame.error)
                else:
                    self.pictures += 1
                    self.faces += len(frame.faces)
                if preview is not None:
                    preview.write(frame, shot)
                if pictures is not None:
                    self._save(pictures.write, frame, shot)
                progress.step(frame.source, shot)
            if pictures is not None:
                self._save(pictures.finish)

    def _save(self, save: Callable[..., None], *what: object) -> None:
        from facexp.sinks.clip_file import SinkError

        try:
            save(*what)
        except SinkError as error:
            self._fail(str(error))

    def _fail(self, reason: str) -> None:
        from facexp_cli.console import stderr_message

        stderr_message("Error", reason)
        self.failed = True
