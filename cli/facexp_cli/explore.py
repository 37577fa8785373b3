"""`facexp explore`: examine a dataset before training."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facexp_cli.console import quiet_libraries, stderr_message
from facexp_cli.extras import require
from facexp_cli.options import PathName, quiet_option, votes_option

if TYPE_CHECKING:
    from facexp_train.exploration.explore import Judge


@click.command("explore")
@click.argument("data", type=PathName(exists=True))
@click.option("--out", type=PathName(file_okay=False), help="Folder for the report.  [default: explore-DATA]")
@votes_option
@quiet_option
def explore_command(data: Path, out: Path | None, votes: str | None, quiet: bool) -> None:
    """Look at a dataset before training on it: what it holds, and what will harm training.

    DATA is whatever `facexp train` takes. Prints a summary with warnings, and writes a page that opens offline
    (index.html), its pictures, and its numbers as CSV and JSON.
    """
    require("train", "pandas", "matplotlib")
    with quiet_libraries():
        from facexp.errors import FacexpError
        from facexp_train.exploration.explore import explore

        try:
            found = explore(data, out or Path(f"explore-{data.resolve().stem}"), votes, _judge(), quiet=quiet)
        except FacexpError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"the report cannot be written: {error}") from error
    click.echo(found.summary)
    click.echo(found.page)


def _judge() -> Judge | None:
    """Return the function that checks pictures for faces, by the runtime's networks; None without onnxruntime."""
    if importlib.util.find_spec("onnxruntime") is None:
        stderr_message("Note", 'pictures are not checked for faces: pip install "facexp[cpu]"')
        return None
    from facexp import Analyzer

    return Analyzer("auto").shows_face
