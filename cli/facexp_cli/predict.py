"""`facexp predict`: draw and write a model's answers for a dataset."""

from __future__ import annotations

from pathlib import Path

import click

from facexp_cli.console import quiet_libraries
from facexp_cli.models import Model, require_packages
from facexp_cli.options import SPLIT, PathName, quiet_option


@click.command("predict")
@click.argument("model", type=PathName(exists=True))
@click.argument("data", type=click.Path(exists=True))
@click.option("--out", type=PathName(dir_okay=False), required=True, help="PNG file for the picture.")
@click.option("--count", type=click.IntRange(1, 600), default=24, show_default=True, help="Faces on the picture.")
@click.option("--split", type=SPLIT, default="val", show_default=True, help="Split to take the faces from.")
@quiet_option
def predict_command(model: Path, data: str, out: Path, count: int, split: str, quiet: bool) -> None:
    """Draw MODEL's answers for faces of DATA, next to the truth, and write all answers as CSV.

    MODEL is a run directory, or an ONNX file of a bundle: then both networks of the bundle answer, with points and
    emotion. The CSV file, next to the picture, has a row for every face of the split. Prints both paths.
    """
    require_packages(model)
    if out.suffix.lower() != ".png":
        raise click.UsageError(f"--out {out}: expected a name that ends in .png")
    with quiet_libraries():
        from facexp.errors import FacexpError
        from facexp_train import run
        from facexp_train.evaluation import predictions
        from facexp_train.evaluation.evaluate import part_of

        try:
            # fails before the slow part if an output would replace a file with other content
            predictions.predictions_path(out)
            opened = Model.open(model, data)
            faces = part_of(run.read_faces(opened.config, quiet), split)
            if opened.bundled is not None and opened.bundled.complete():
                predicted = predictions.predict_with_analyzer(opened.bundled.analyzer(), faces, quiet)
            else:
                predicted = predictions.predict_with_network(opened.predict, faces)
            table = predictions.write_predictions(predicted, faces, out, count)
        except FacexpError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"{error.filename or out}: cannot be written ({error.strerror})") from error
    click.echo(f"{out}\n{table}")
