"""`facexp-infer`, also `facexp infer`: faces, points and emotions of photos, folders, globs and clips."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facexp_cli.extras import require

if TYPE_CHECKING:
    from facexp.pictures import PictureSink
    from facexp.sinks import Sink, Stream
    from facexp.sources import Shot
    from facexp.types import Frame
    from facexp_cli.console import Progress, Signals


def _no_flag(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    """Refuse a forgotten value: click would take the flag that follows for it."""
    if value is not None and str(value).startswith("-"):
        raise click.BadParameter(f"{value} looks like an option: write ./{value} for a folder of that name")
    return value


@click.command("infer", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "jsonl", "csv"]),
    help="Form of the results on standard output.  [default: text on a terminal, else jsonl]",
)
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    callback=_no_flag,
    help="Also save annotated pictures, and clips as MP4, in DIR.",
)
@click.option(
    "--emotions",
    type=click.Choice(["five", "seven"]),
    default="seven",
    show_default=True,
    help="seven: angry, disgust, fear, happy, sad, surprise, neutral; five leaves out fear and neutral.",
)
@click.option("--face-crops", is_flag=True, help="Each picture is one face that fills it: no detector.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the networks run; auto takes the best that really works.",
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Most CPU threads.  [default: all cores]")
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Leave out faces of which the detector is less sure; below 0.8 the keypoints must confirm them, too.",
)
@click.option("--max-faces", type=click.IntRange(1), metavar="N", help="Keep the N largest faces of a picture.")
@click.option(
    "--every",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Analyse each N-th frame of a clip.",
)
@click.option(
    "--detector",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PATH",
    help="Another YuNet detector, an ONNX file.",
)
@click.option(
    "--models",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Another model bundle: the folder of its manifest.json.",
)
@click.option("-q", "--quiet", is_flag=True, help="On standard error only what went wrong: no notes, no progress bar.")
@click.option("-v", "--verbose", is_flag=True, help="Also say which models and device are used and how fast it went.")
@click.version_option(package_name="facexp", message="facexp %(version)s")
@click.pass_context
def infer(ctx: click.Context, /, **options: object) -> None:
    """Find the faces in photos and clips, with 15 keypoints and an emotion each.

    SOURCE is a photo, a clip, a folder (searched to its depths) or a quoted glob such as 'clips/**/*.mp4'.

    Results go to standard output, one record per photo or frame, as soon as it is there; everything else goes to
    standard error. A source that cannot be read gives a record with an error, and the others still run.

    Exit status: 0 all read, 1 something could not be read or saved, 2 wrong usage, 130 Ctrl-C.
    """
    job = Job(**options)  # type: ignore[arg-type]
    if job.quiet and job.verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")
    require("cpu", "onnxruntime")
    ctx.exit(run(job))


@dataclass(frozen=True, slots=True)
class Job:
    """The options of one run."""

    sources: tuple[str, ...]
    form: str | None
    save: Path | None
    emotions: str
    face_crops: bool
    device: str
    threads: int | None
    min_score: float
    max_faces: int | None
    every: int
    detector: Path | None
    models: Path | None
    quiet: bool
    verbose: bool


def run(job: Job) -> int:
    """Do the job and return the exit status."""
    from facexp_cli.console import Signals, Stop, notes, quiet_libraries

    level = logging.ERROR if job.quiet else logging.INFO if job.verbose else logging.WARNING
    with quiet_libraries(not job.verbose), notes(level):
        try:
            with Signals() as signals:
                return _run(job, signals)
        except Stop as stop:
            return stop.status


def _run(job: Job, signals: Signals) -> int:
    # the heavy imports, so that --help and wrong usage need none of them
    import cv2

    from facexp import Analyzer, FacexpError
    from facexp.pictures import PictureSink, SinkError
    from facexp.pipeline import analyze_sources
    from facexp.sources import open_sources
    from facexp_cli.console import Output, Progress

    try:
        pictures = None if job.save is None else PictureSink(job.save, job.sources)
    except SinkError as error:
        raise click.UsageError(f"--save {error}") from None
    if job.threads is not None:
        cv2.setNumThreads(job.threads)
    try:
        analyzer = Analyzer(
            job.device,
            job.threads,
            job.emotions,
            detector=job.detector,
            bundle=job.models,
            min_score=job.min_score,
            max_faces=job.max_faces,
        )
    except FacexpError as error:
        raise click.ClickException(str(error)) from None
    logger = logging.getLogger("facexp")
    logger.info("models %s %s on %s", analyzer.bundle.name, analyzer.bundle.version, analyzer.device)
    shown = not job.quiet and sys.stderr.isatty()
    files = sum(1 for _ in open_sources(job.sources, job.save)) if shown else None
    sink = line_sink(Output(signals), job.form, job.emotions)
    frames = analyze_sources(analyzer, open_sources(job.sources, job.save), job.every, job.face_crops)
    start = time.perf_counter()
    tally = _Tally()
    with Progress(files, shown) as progress:
        tally.take(frames, sink, pictures, progress)
    seconds = time.perf_counter() - start
    logger.info("%d pictures, %d faces in %.1f s", tally.pictures, tally.faces, seconds)
    return 1 if tally.failed else 0


def line_sink(stream: Stream, form: str | None, emotions: str = "seven") -> Sink:
    """The sink of a form; None is text for a terminal and JSON lines for a program."""
    from facexp.labels import EMOTIONS
    from facexp.sinks import CsvSink, JsonlSink, TextSink

    form = form or ("text" if sys.stdout.isatty() else "jsonl")
    if form == "csv":
        return CsvSink(stream, EMOTIONS[emotions])
    return TextSink(stream) if form == "text" else JsonlSink(stream)


class _Tally:
    """Hands each frame on and counts."""

    def __init__(self) -> None:
        self.pictures = 0
        self.faces = 0
        self.failed = False

    def take(
        self,
        frames: Iterable[tuple[Frame, Shot | None]],
        sink: Sink,
        pictures: PictureSink | None,
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
                if pictures is not None:
                    self._save(pictures.write, frame, shot)
                progress.step(frame.source, shot)
            if pictures is not None:
                self._save(pictures.finish)

    def _save(self, save: Callable[..., None], *what: object) -> None:
        from facexp.pictures import SinkError

        try:
            save(*what)
        except SinkError as error:
            self._fail(str(error))

    def _fail(self, reason: str) -> None:
        from facexp_cli.console import say

        say("Error", reason)
        self.failed = True
