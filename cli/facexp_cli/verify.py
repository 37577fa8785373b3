"""`facexp verify`: check that a bundle gives the trained model's answers on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facexp_cli.console import quiet_libraries, stderr_line, stderr_message, unwritten
from facexp_cli.extras import require
from facexp_cli.options import PathName

if TYPE_CHECKING:
    from facexp.proof.verdict import Report

FAILED = 3
"""Exit status if a step fails; 1 is for a proof that could not be made at all."""


@click.command("verify")
@click.option(
    "--bundle",
    type=PathName(),
    metavar="DIR",
    help="Another model bundle: the folder of its manifest.json.  [default: the models inside facexp]",
)
@click.option(
    "--data",
    multiple=True,
    type=PathName(),
    help="The data that a network was trained on, for steps 2 and 3; once for each network. Needs facexp[export].",
)
@click.option(
    "--report",
    "place",
    type=PathName(file_okay=False),
    help="Folder for report.json and report.html.",
)
def verify_command(bundle: Path | None, data: tuple[Path, ...], place: Path | None) -> None:
    """Prove a bundle in five steps; prints a table and the verdict.

    Files and manifest (1), numbers against the trained model (2) and loss at the task (3) on real faces, the answers
    of this machine (4), and, for what failed, the layers that differ most (5). Steps 1 and 4 need no data and take
    seconds. Exit status: 0 passed, 3 failed, 1 no proof could be made or reported.
    """
    with quiet_libraries():
        from facexp.bundle import MANIFEST, shipped
        from facexp.errors import FacexpError
        from facexp.proof.report import summary, write
        from facexp.proof.run import prove

        directory = bundle or shipped()
        # a wrong path says nothing about a model, so it is no failed proof; a wrong manifest fails the first step
        if not os.access(directory / MANIFEST, os.R_OK):
            raise click.ClickException(f"{directory}: no {MANIFEST} to read; give the directory of a facexp bundle")
        try:
            report = _prove_with_data(directory, data) if data else prove(directory)
        except FacexpError as error:
            raise click.ClickException(str(error)) from error
    # neither a full disk nor a closed standard output may suppress the other outputs, or the status of a failed proof
    errors = []
    if place is not None:
        try:
            stderr_message("report", str(write(report, place)[1]))
        except OSError as error:
            errors.append(f"{place}: the report cannot be written ({error.strerror or error})")
    try:
        click.echo(summary(report))
    except OSError as error:
        errors.append(unwritten(error).message)
    for message in errors:
        stderr_message("Error", message)
    if errors or not report.passed:
        click.get_current_context().exit(1 if report.passed else FAILED)


def _prove_with_data(directory: Path, data: tuple[Path, ...]) -> Report:
    require("export", "pandas", "onnx", "onnxruntime")
    from facexp_export.verify import verify

    return verify(directory, data, say=stderr_line)
