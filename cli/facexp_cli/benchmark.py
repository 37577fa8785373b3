"""`facexp benchmark`: how fast each stage runs on this machine."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from facexp_cli.console import quiet_libraries, stderr_message
from facexp_cli.extras import require
from facexp_cli.options import DEVICE, MOST_THREADS, bundle_option

_INFER_COMMAND = (sys.executable, "-P", "-c", "from facexp_cli.main import infer_main; infer_main()")


def _number_list(most: int) -> Callable[[click.Context, click.Parameter, str], tuple[int, ...]]:
    """Return a click callback that parses a list such as 1,2,4 with numbers from 1 to `most`."""

    def read(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
        try:
            numbers = tuple(int(number) for number in value.split(","))
        except ValueError:
            numbers = (0,)
        if not all(1 <= number <= most for number in numbers):
            raise click.BadParameter(f"{value} is not a list of numbers from 1 to {most}, such as 1,2")
        return numbers

    return read


@click.command("benchmark")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option(
    "--threads",
    default="1",
    show_default=True,
    metavar="N,...",
    callback=_number_list(MOST_THREADS),
    help=f"CPU threads, up to {MOST_THREADS}.",
)
@click.option(
    "--batch",
    default="1,8",
    show_default=True,
    metavar="N,...",
    callback=_number_list(4096),
    help="Crops at once, up to 4096.",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=50, show_default=True, help="How many times everything is measured."
)
@click.option("--starts", type=click.IntRange(0), default=5, show_default=True, help="Processes for the cold start.")
@click.option("--device", type=DEVICE, default="auto", show_default=True, help="Where the networks run.")
@bundle_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the table.")
def benchmark(
    sources: tuple[str, ...],
    threads: tuple[int, ...],
    batch: tuple[int, ...],
    rounds: int,
    starts: int,
    device: str,
    bundle: Path | None,
    as_json: bool,
) -> None:
    """Measure how long each stage takes on this machine.

    SOURCE is a photo, clip or folder; without any, facexp draws a face. Things that are compared are measured in
    turns, so that other load on the machine slows all of them alike: on a busy machine ratios are valid, milliseconds
    are not.

    Stages: read (and decode), detect, keypoints, emotion; whole is a picture from its file to its record, track is a
    frame of a clip whose faces are followed. Then every file of both networks that runs here, and the cold start:
    `facexp-infer` on one photo in a new process.
    """
    require("cpu", "onnxruntime")
    with quiet_libraries(), _bar() as progress:
        from facexp import FacexpError
        from facexp.benchmark import Plan, run, table

        plan = Plan(sources, threads, batch, device, bundle, rounds, starts, _INFER_COMMAND)
        try:
            report = run(plan, progress)
        except FacexpError as error:
            raise click.ClickException(str(error)) from None
    for reason in report.skipped:
        stderr_message("Note", f"not measured: {reason}")
    click.echo(json.dumps(report.as_json(), indent=1) if as_json else table(report))


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error if that is a terminal; yields the function that updates it."""
    from tqdm import tqdm

    with tqdm(disable=not sys.stderr.isatty(), file=sys.stderr, leave=False, unit="round") as bar:

        def progress(what: str, done: int, total: int) -> None:
            bar.set_description(what, refresh=False)
            bar.total, bar.n = total, done
            bar.refresh()

        yield progress
