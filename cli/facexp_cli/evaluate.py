"""`facexp evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from facexp_cli.console import quiet_libraries
from facexp_cli.extras import require


@click.command("evaluate")
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("data", type=click.Path(exists=True))
@click.option("--split", type=click.Choice(["val", "test"]), default="val", show_default=True, help="Split to score.")
@click.option(
    "--framing",
    type=click.Choice(["jitter", "detector"]),
    default="jitter",
    show_default=True,
    help="How faces with keypoints are framed: by the true square, jittered, or by the detector, as the product does.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Where the report goes. Default: the run directory.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
def evaluate_command(model: Path, data: str, split: str, framing: str, out: Path | None, quiet: bool) -> None:
    """Score MODEL on DATA, with 95% bootstrap intervals.

    MODEL is a run directory, or an ONNX file of a bundle, whose manifest then takes the figures. Prints a table and
    writes evaluation.json and confusion matrices (PNG). Choose models on val; score test once, for what ships.
    """
    require("export" if model.is_file() else "train", "tensorflow", "keras", "pandas", "matplotlib")
    with quiet_libraries():
        from facexp.errors import FacexpError
        from facexp_train.errors import DataError

        try:
            table = _evaluate(model, data, split, framing, out, quiet)
        except (DataError, FacexpError) as error:
            raise click.ClickException(str(error)) from error
    click.echo(table)


def _evaluate(model: Path, data: str, split: str, framing: str, out: Path | None, quiet: bool) -> str:
    from facexp_train import evaluate as ev
    from facexp_train import run as runs
    from facexp_train.config import TrainConfig
    from facexp_train.keypoint_data import KeypointFaces

    bundled = None
    if model.is_file():
        from facexp_export.figures import BundleModel

        bundled = BundleModel.open(model)
        config = TrainConfig(bundled.task, data, seed=bundled.seed)
        predict: ev.Predict = bundled.predict
    else:
        config = TrainConfig.from_run(model).with_data(data)
        predict = runs.load_predict(model)
    if framing == "detector" and (bundled is None or config.task != "keypoints"):
        raise click.UsageError("--framing detector runs the product: give a keypoint network's ONNX file in its bundle")
    faces = runs.read_faces(config, quiet)
    if isinstance(faces, KeypointFaces):
        if bundled and framing == "detector":
            evaluation = ev.evaluate_detected(bundled.locate(), faces, split, quiet)
        else:
            evaluation = ev.evaluate_keypoints(predict, faces, split)
        table = ev.keypoint_table(evaluation)
    else:
        temperatures = bundled.temperatures if bundled else runs.temperatures(model)
        evaluation = ev.evaluate_emotion(predict, faces, split, temperatures)
        table = ev.emotion_table(evaluation)
    if bundled:
        bundled.record(evaluation, framing)
    if out or not bundled:
        runs.write_evaluation(evaluation, out or model)
    return table
