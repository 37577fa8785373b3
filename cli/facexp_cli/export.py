"""`facexp export`: convert a training run into the files of a model bundle."""

from __future__ import annotations

from pathlib import Path

import click

from facexp_cli.console import Signals, Stop, quiet_libraries, stderr_line
from facexp_cli.extras import require
from facexp_cli.options import PathName


@click.command("export")
@click.argument("run", type=PathName())
@click.option("--out", required=True, type=PathName(), help="Bundle directory to write or to add to.")
@click.option(
    "--data",
    type=PathName(),
    help="The data that RUN was trained on, if it has moved.  [default: the path in RUN/config.json]",
)
@click.option(
    "--recipe",
    type=PathName(exists=True, dir_okay=False),
    help="TOML file with changes to the default recipe: files to write, calibration, tolerances, margins.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing files of this network in --out.")
def export_command(run: Path, out: Path, data: Path | None, recipe: Path | None, overwrite: bool) -> None:
    """Write RUN as ONNX, TFLite and SavedModel with a manifest; prints their paths.

    Every file is compared with the trained model on real validation faces. If they differ beyond the limits, the
    figures are shown, the exit status is 1 and the bundle is unchanged. A bundle holds one model per task: export
    the other task's run into the same directory.
    """
    require("export", "tensorflow", "keras", "pandas", "onnx", "onnxruntime", "tf2onnx", "ai_edge_quantizer")
    with quiet_libraries():
        from facexp.errors import FacexpError
        from facexp_export.bundle_writer import export_run

        try:
            # a signal raises Stop, so that the export removes its half-written files
            with Signals():
                exported = export_run(run, out, data, recipe, overwrite, say=stderr_line)
        except Stop as stop:
            click.get_current_context().exit(stop.status)
        except FacexpError as error:
            raise click.ClickException(str(error)) from error
    for path in exported.files.values():
        click.echo(path)
