"""`facexp demo`: analyse and annotate a photo that comes with scikit-image."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path, PurePath

import click

from facexp_cli.extras import missing, require
from facexp_cli.options import PathName


@click.command("demo")
@click.option(
    "--out",
    type=PathName(dir_okay=False),
    default=Path("facexp-demo.jpg"),
    show_default=True,
    metavar="FILE",
    help="File for the annotated picture.",
)
def demo(out: Path) -> None:
    """Analyse the portrait of an astronaut that comes with scikit-image, and save it annotated.

    Prints what `facexp-infer` prints: text on a terminal, else JSON lines.
    """
    require("cpu", "onnxruntime")
    photo = astronaut()
    from facexp_cli.console import Output, Signals, Stop, quiet_libraries, stderr_message
    from facexp_cli.job import line_sink

    try:
        with quiet_libraries(), Signals() as signals:
            from facexp import Analyzer, FacexpError
            from facexp.draw import annotate
            from facexp.pipeline import analyze_shot
            from facexp.sinks.pictures import save_picture
            from facexp.sources.shots import Source

            try:
                (shot,) = Source(str(photo), PurePath(photo.name)).shots()
                analyzer = Analyzer()
                frame = replace(analyze_shot(analyzer, shot), source=photo.name)
                line_sink(Output(signals), None, analyzer.labels).write(frame, shot)
                save_picture(out, annotate(shot.image, frame.faces))
            except FacexpError as error:
                raise click.ClickException(str(error)) from None
            stderr_message("Note", f"the annotated picture is {out}")
    except Stop as stop:
        click.get_current_context().exit(stop.status)


def astronaut() -> Path:
    """Return the file of NASA's public-domain portrait inside scikit-image, found without importing scikit-image.

    Raises click.ClickException if it is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder, "data", "astronaut.png")
        if file.is_file():
            return file
    raise missing("demo", "scikit-image")
