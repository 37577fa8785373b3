"""`facexp evaluate`: score models on a dataset."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facexp_cli.console import quiet_libraries, stderr_message
from facexp_cli.models import Model, require_packages, same_task
from facexp_cli.options import SPLIT, PathName, quiet_option

if TYPE_CHECKING:
    from facexp_train.data.emotion_data import EmotionFaces
    from facexp_train.data.keypoint_data import KeypointFaces
    from facexp_train.evaluation.evaluate import Align, Evaluation


@click.command("evaluate")
@click.argument("model", type=PathName(exists=True))
@click.argument("data", type=click.Path(exists=True))
@click.argument("other", metavar="[MODEL2]", required=False, type=PathName(exists=True))
@click.option("--split", type=SPLIT, default="val", show_default=True, help="Split to score.")
@click.option(
    "--framing",
    type=click.Choice(["jitter", "detector"]),
    default="jitter",
    show_default=True,
    help="How faces with keypoints are framed: jitter: by the true square, jittered; detector: as facexp-infer does.",
)
@click.option("--out", type=PathName(), help="Folder for the report.  [default: evaluation/ in a run directory]")
@click.option(
    "--record", is_flag=True, help="Write the figures into the manifest of MODEL's bundle, for models that ship."
)
@quiet_option
def evaluate_command(
    model: Path, data: str, other: Path | None, split: str, framing: str, out: Path | None, record: bool, quiet: bool
) -> None:
    """Score MODEL on DATA, with 95% bootstrap intervals; with MODEL2, both and their difference.

    A model is a run directory, or an ONNX file of a bundle. Prints a table and writes evaluation.json, pictures, CSV
    files and a page with all of them, index.html: for a run in its directory, for a bundle's file only with --out. Two
    models are scored on the same faces. Emotions are scored on the faces as the data has them, and on the same faces
    aligned by their keypoints, as facexp shows them to the network. Choose between models on val; score test once, for
    the model that ships. Data that names no splits is divided as for training, so that val is a tenth of it: to score
    all faces of a folder that MODEL has not seen, put its class folders into a folder called test.
    """
    require_packages(model, other)
    with quiet_libraries():
        from facexp.errors import FacexpError

        try:
            table, page = _evaluate(model, data, other, split, framing, out, record, quiet)
        except FacexpError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            place = error.filename or out or model
            raise click.ClickException(f"{place}: cannot be written ({error.strerror or error})") from error
    click.echo(table)
    if page is not None:
        stderr_message("report", str(page))


def _evaluate(
    path: Path, data: str, other: Path | None, split: str, framing: str, out: Path | None, record: bool, quiet: bool
) -> tuple[str, Path | None]:
    from facexp.bundle import MANIFEST
    from facexp_train import run
    from facexp_train.evaluation import compare
    from facexp_train.evaluation import evaluate as ev
    from facexp_train.evaluation.evaluation_page import write_figures, write_report

    model = Model.open(path, data)
    if framing == "detector" and (other or model.bundled is None or model.config.task != "keypoints"):
        raise click.UsageError(
            "--framing detector runs the full analysis: give one keypoint network's ONNX file in its bundle"
        )
    if record and (other or model.bundled is None):
        raise click.UsageError("--record writes the figures of one model into its bundle: give that bundle's ONNX file")
    faces = run.read_faces(model.config, quiet)
    # a folder that names no splits is divided, and who scores a model on it may expect all its faces
    stderr_message("split", f"{split}, {len(ev.part_of(faces, split)):,} of {len(faces):,} faces")
    evaluation = _scored(model, faces, split, framing, quiet)
    if other is not None:
        second = Model.open(other, data)
        same_task(model, second)
        run.check_splits(faces, model.config, second.config, quiet)
        names = (model.name, second.name) if model.name != second.name else (str(path), str(other))
        both = dict(zip(names, (evaluation, _scored(second, faces, split, framing, quiet)), strict=True))
        table = compare.comparison_table(compare.compare(*both.values()), list(both))
        if out is None and model.bundled is None:
            out = path / f"compared-with-{second.name}"
        return table, None if out is None else write_report(both, data, out)
    if record and model.bundled:
        model.bundled.record(evaluation, framing)
        stderr_message("figures", str(path.parent / MANIFEST))
    table = ev.keypoint_table(evaluation) if evaluation.keypoints is not None else ev.emotion_table(evaluation)
    if out is None and model.bundled:
        return table, None
    # the export reads the figures of a run from the run directory
    write_figures(evaluation, Path(data), out or path)
    return table, write_report({model.name: evaluation}, data, out or path / "evaluation")


def _scored(model: Model, faces: KeypointFaces | EmotionFaces, split: str, framing: str, quiet: bool) -> Evaluation:
    from facexp_train.data.keypoint_data import KeypointFaces
    from facexp_train.evaluation import evaluate as ev

    if not isinstance(faces, KeypointFaces):
        return ev.evaluate_emotion(model.predict, faces, split, model.temperatures, _align(model, quiet))
    if framing == "detector" and model.bundled is not None:
        return ev.evaluate_detected(model.bundled.locate(), faces, split, quiet)
    return ev.evaluate_keypoints(model.predict, faces, split)


def _align(model: Model, quiet: bool) -> Align | None:
    """Return the function that aligns faces as facexp does at run time; None without onnxruntime, with a note.

    For a file of a complete bundle it uses that bundle's keypoint network, otherwise the shipped bundle's; of the same
    precision as the emotion file if there is one, as at run time. For a run it uses the most exact keypoint file.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        stderr_message("Note", 'aligned faces are not scored: pip install "facexp[cpu]"')
        return None
    from facexp_train.augmentation.alignment import aligned_crops

    if model.bundled is None:
        return lambda images: aligned_crops(images, quiet)
    own = model.bundled.path.parent if model.bundled.complete() else None
    precision = model.bundled.key.partition(".")[0]
    return lambda images: aligned_crops(images, quiet, own, precision)
