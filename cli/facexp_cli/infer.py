"""`facexp-infer`, also `facexp infer`: faces, keypoints and emotions in photos, clips, cameras and streams."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import click
from click.core import ParameterSource

from facexp_cli.extras import require
from facexp_cli.job import Job, run
from facexp_cli.options import BACKEND, DEVICE, EMOTIONS, LABELS, THREADS, Finite, PathName, bundle_option

_Value = TypeVar("_Value", Path, str, None)


def _reject_option(_: click.Context, __: click.Parameter, value: _Value) -> _Value:
    """Refuse a value that starts with a dash: if a value is forgotten, click takes the next option for it."""
    if value is not None and str(value).startswith("-"):
        raise click.BadParameter(f"{value} looks like an option: write ./{value} for a folder of that name")
    return value


def _parse_size(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Parse WxH as (width, height)."""
    if value is None:
        return None
    width, _separator, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) < 65536 and 0 < int(height) < 65536):
        raise click.BadParameter(f"{value} is not a width and a height, such as 640x480")
    return int(width), int(height)


def _parse_address(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """Parse [HOST:]PORT as (host, port); the default host, 127.0.0.1, is reachable from this machine only."""
    if value is None:
        return None
    host, colon, port = value.rpartition(":")
    if not port.isdecimal() or int(port) > 65535 or (colon and not host):
        raise click.BadParameter(f"{value} is not [HOST:]PORT, such as 8000 or 0.0.0.0:8000")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


_SECONDS = Finite(0, 1e6, min_open=True)


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
    type=PathName(file_okay=False),
    metavar="DIR",
    callback=_reject_option,
    help="Also save annotated pictures and clips in DIR: clips as MP4, recordings of cameras, streams and pipes as "
    "Matroska (.mkv).",
)
@click.option(
    "--preview",
    metavar="[HOST:]PORT",
    callback=_parse_address,
    help="Show the newest picture, its faces and the speed on a page in the browser; only on this machine, unless a "
    "HOST such as 0.0.0.0 opens it to the network.",
)
@click.option(
    "--emotions",
    type=EMOTIONS,
    help="seven: angry, disgust, fear, happy, sad, surprise, neutral; five leaves out fear and neutral.  "
    "[default: the bundle's labels, seven in the shipped models]",
)
@click.option(
    "--labels",
    type=LABELS,
    help="ferplus: what most onlookers say; fer2013: what FER2013's labels say.  [default: the bundle's first]",
)
@click.option("--face-crops", is_flag=True, help="Each picture is a crop of one face: run no detector.")
@click.option(
    "--device",
    type=DEVICE,
    default="auto",
    show_default=True,
    help="Where the networks run; auto takes the best device that really works.",
)
@click.option(
    "--backend",
    type=BACKEND,
    default="onnxruntime",
    show_default=True,
    help="What runs the networks; litert takes the models' TFLite files, on the CPU.",
)
@click.option("--threads", type=THREADS, metavar="N", help="Use at most N CPU threads.  [default: all cores]")
@click.option(
    "--min-score",
    type=Finite(0, 1),
    default=0.5,
    show_default=True,
    help="Leave out faces with a lower detector score; below 0.8 the keypoints must also confirm a face.",
)
@click.option(
    "--min-face",
    type=Finite(0),
    default=0.0,
    metavar="PIXELS",
    help="Leave out smaller faces; from about a twentieth of the picture on, this saves time.  [default: 0]",
)
@click.option("--max-faces", type=click.IntRange(1), metavar="N", help="Keep the N largest faces of a picture.")
@click.option(
    "--every",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Analyse every N-th frame of a clip, camera or stream.",
)
@click.option(
    "--max-fps",
    type=Finite(0, 1000, min_open=True),
    metavar="N",
    help="Analyse at most N frames per second of the clip, camera or stream.",
)
@click.option("--start", type=Finite(0, 1e6), default=0.0, metavar="SECONDS", help="Leave out the first SECONDS.")
@click.option("--duration", type=_SECONDS, metavar="SECONDS", help="Stop after SECONDS of the clip, camera or stream.")
@click.option(
    "--policy",
    type=click.Choice(["latest", "all"]),
    help="When frames come faster than they are analysed: latest drops all but the newest, all makes the source wait; "
    "files always give all.  [default: latest for cameras and streams, all for -]",
)
@click.option(
    "--timeout",
    type=_SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Reopen a camera or stream that shows nothing for SECONDS.",
)
@click.option(
    "--raw",
    metavar="WxH",
    callback=_parse_size,
    help="Standard input is raw frames of this size, 3 bytes a pixel (BGR24).",
)
@click.option(
    "--detect-every",
    type=click.IntRange(1),
    metavar="N",
    help="In clips run the detector at every N-th frame, and whenever something new moves.  [default: once a second]",
)
@click.option(
    "--smooth",
    type=Finite(0, 60),
    default=0.3,
    show_default=True,
    metavar="SECONDS",
    help="In clips also give points and emotions smoothed over SECONDS; 0 turns it off.",
)
@click.option(
    "--detector",
    type=PathName(exists=True, dir_okay=False),
    metavar="FILE",
    help="Another YuNet detector, an ONNX file.",
)
@bundle_option
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray: many photos and clips by many workers of Ray Data, on this machine or a cluster, into Parquet files.",
)
@click.option(
    "--out", metavar="DIR", callback=_reject_option, help="With ray: the folder of Parquet files for the results."
)
@click.option("--resume", is_flag=True, help="With ray: continue an interrupted job.")
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="With ray: number of workers.  [default: all cores]"
)
@click.option(
    "--gpus-per-worker",
    type=Finite(0),
    default=0.0,
    metavar="N",
    help="With ray: GPUs for each worker; 0.25 lets four share one.  [default: 0, the CPU]",
)
@click.option(
    "--ray-address",
    metavar="HOST:PORT",
    help="With ray: the head of the cluster to use, from one of its machines; auto finds it.  [default: this machine "
    "only]",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only errors on standard error: no notes, no progress bar.")
@click.option("-v", "--verbose", is_flag=True, help="Also say which models and device are used and how fast it went.")
@click.version_option(package_name="facexp", message="facexp %(version)s")
@click.pass_context
def infer(ctx: click.Context, /, **options: object) -> None:
    """Find the faces in photos and clips, with 15 keypoints and an emotion each.

    SOURCE is a photo, a clip, a folder (searched recursively), a quoted glob such as 'clips/**/*.mp4', a list of
    such names (@list.txt), a camera (0 or /dev/video0), a stream (rtsp://... or http://...), or - for standard input:
    one photo, a stream of JPEGs, or with --raw raw frames. A file named 0 is written ./0. With --engine ray it is also
    a Parquet file with encoded pictures, or an object store's address of any of these (s3://bucket/photos).

    Results go to standard output, one record per photo or frame, as soon as it is ready; everything else goes to
    standard error. A source that cannot be read gives a record with an error, and the others still run.

    Exit status: 0 all read, 1 something could not be read or saved, 2 wrong usage, 130 Ctrl-C, 143
    SIGTERM, 129 closed terminal.
    """
    job = Job(**options)  # type: ignore[arg-type]
    _check_engine(ctx, job)
    if job.quiet and job.verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")
    if job.backend == "litert":
        require("litert", "ai_edge_litert")
    else:
        require("cpu", "onnxruntime")
    if job.preview is not None:
        require("serve", "starlette", "uvicorn")
    if job.engine == "ray":
        require("ray", "ray", "pyarrow")
    ctx.exit(run(job))


_ENGINE_OPTIONS = {
    "local": ("form", "save", "preview", "threads", "policy", "timeout", "raw"),
    "ray": ("out", "resume", "workers", "gpus_per_worker", "ray_address"),
}


def _check_engine(ctx: click.Context, job: Job) -> None:
    """Refuse options of the other engine, which would have no effect, and check those that --engine ray needs."""
    for engine, names in _ENGINE_OPTIONS.items():
        for parameter in ctx.command.params:
            given = ctx.get_parameter_source(str(parameter.name)) is not ParameterSource.DEFAULT
            if engine != job.engine and parameter.name in names and given:
                raise click.UsageError(f"{parameter.opts[0]} is for --engine {engine}")
    if job.engine == "ray" and job.out is None:
        raise click.UsageError("--engine ray needs --out, a folder for the results such as --out results.parquet")
    if job.engine == "ray" and job.device == "cuda" and not job.gpus_per_worker:
        raise click.UsageError("--device cuda with --engine ray needs --gpus-per-worker, such as 1 or 0.5")
