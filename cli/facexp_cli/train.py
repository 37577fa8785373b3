"""`facexp train`: train a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from facexp_cli.console import quiet_libraries
from facexp_cli.extras import require
from facexp_cli.options import PathName, quiet_option, votes_option


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.argument("data", type=click.Path(exists=True)),
        click.option("--out", type=PathName(), required=True, help="Run directory to write."),
        click.option(
            "--config",
            metavar="NAME|FILE",
            help="A configuration that comes with facexp, such as keypoints-resnet or emotion-cnn, or a TOML file.  "
            "[default: the one named after the task]",
        ),
        click.option(
            "--set",
            "changes",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change a setting, such as epochs=2 or augmentation.flip=0.",
        ),
        click.option("--resume", is_flag=True, help="Continue after the run's last complete epoch."),
        click.option("--tensorboard", is_flag=True, help="Also write logs for TensorBoard into the run directory."),
        quiet_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _train(
    task: Literal["keypoints", "emotion"],
    data: str,
    votes: str | None,
    out: Path,
    config: str | None,
    changes: tuple[str, ...],
    resume: bool,
    tensorboard: bool,
    quiet: bool,
) -> None:
    require("train", "tensorflow", "keras", "pandas", "sklearn", "matplotlib")
    with quiet_libraries():
        from facexp.errors import FacexpError
        from facexp_train import run

        try:
            model = run.start(run.configure(task, data, votes, config, changes), out, resume, quiet, tensorboard)
        except FacexpError as error:
            raise click.ClickException(str(error)) from error
    click.echo(model)


@click.group("train")
def train_command() -> None:
    """Train a network from a dataset file or folder; prints the path of the trained model.

    The run directory's index.html shows how training went; its command.txt holds the command to repeat it.
    """


@train_command.command()
@_options
def keypoints(**options: Any) -> None:
    """Train the 15-point network.

    DATA is Kaggle's training.csv, data.csv or KeyFacialPoints.csv, or a folder of images with labels.csv.
    """
    _train("keypoints", votes=None, **options)


@train_command.command()
@_options
@votes_option
def emotion(**options: Any) -> None:
    """Train the emotion network.

    DATA is fer2013.csv, icml_face_data.csv, the five-class emotion.csv, or a folder with a folder of images per class.
    Labels of your own are described by labels.toml in the folder, or by NAME.labels.toml next to NAME.csv.
    """
    _train("emotion", **options)
