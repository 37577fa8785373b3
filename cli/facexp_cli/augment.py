"""`facexp augment`."""

from __future__ import annotations

from pathlib import Path

import click

from facexp_cli.console import quiet_libraries, stderr_line
from facexp_cli.extras import require
from facexp_cli.options import PathName, quiet_option


@click.command("augment")
@click.argument("data", type=PathName(exists=True))
@click.option("--out", type=PathName(file_okay=False), required=True, help="New folder to write.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed gives the same copies."
)
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help="Make only this change; repeat for several: flip, vertical-flip, brighter, darker, rotated, scaled.",
)
@quiet_option
def augment_command(data: Path, out: Path, seed: int, only: tuple[str, ...], quiet: bool) -> None:
    """Write DATA with changed copies of its training faces, in the format that it came in.

    DATA is whatever `facexp train` takes. Validation and test faces stay as they are. Points move with their faces, and
    in a reflection left and right change names. Prints what to give to `facexp train`; augmentation.png shows the
    changes.
    """
    require("train", "pandas", "matplotlib")
    with quiet_libraries():
        from facexp.errors import FacexpError
        from facexp_train.augmentation.changes import CHANGES
        from facexp_train.augmented_data import augment

        try:
            made = augment(data, out, only or CHANGES, seed=seed, quiet=quiet)
        except FacexpError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"the dataset cannot be written: {error}") from error
    stderr_line(f"{made.faces:,} faces and {made.copies:,} changed copies")
    click.echo(made.path)
