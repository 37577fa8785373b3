"""`facexp export`: a training run becomes part of a model bundle."""

from __future__ import annotations

import os
from pathlib import Path

import click

from facexp_cli.console import quiet_libraries
from facexp_cli.extras import require


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Bundle directory to write or to add to.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The faces that RUN was trained on, where they have moved; default: the place that RUN/config.json names.",
)
def export_command(run: Path, out: Path, data: Path | None) -> None:
    """Write RUN as float32 and int8 ONNX files with a manifest; prints the paths of the files.

    Both files are compared with the trained model on real validation faces. Where they differ beyond the limits, the
    figures are shown, the exit status is 1 and the bundle stays as it was. A bundle holds a model per task: export the
    other task's run into the same directory.
    """
    require("export", "tensorflow", "keras", "pandas", "matplotlib", "onnx", "onnxruntime", "tf2onnx")
    # TensorFlow reads this when it is first imported; what it prints all the same would bury the figures too
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # the converter knows TensorFlow's graphs only; weights trained under another backend load there as well
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with quiet_libraries():
        from facexp.errors import FacexpError
        from facexp_export.bundle_writer import export_run
        from facexp_train.errors import DataError

        try:
            exported = export_run(run, out, data, report=lambda line: click.echo(line, err=True))
        except (FacexpError, DataError) as error:
            raise click.ClickException(str(error)) from error
    for path in exported.files.values():
        click.echo(path)
