"""`facexp doctor`: find the faults of this installation and the commands that fix them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facexp_cli.console import quiet_libraries
from facexp_cli.options import PathName

if TYPE_CHECKING:
    from facexp.doctor import Diagnosis

_FAULT_STATUS = 3


@click.command("doctor")
@click.option("--bundle", type=PathName(), metavar="DIR", help="Another model bundle: the folder of its manifest.json.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def doctor(bundle: Path | None, as_json: bool) -> None:
    """Check this installation, and print the command that fixes each fault.

    Checks packages, models and their hashes, devices that really run them, and cameras, which are not opened. Changes
    nothing. The exit status is 3 if there is a fault.
    """
    with quiet_libraries():
        from facexp.doctor import examine

        diagnosis = examine(bundle)
    click.echo(_json(diagnosis) if as_json else _text(diagnosis))
    if diagnosis.faults:
        click.get_current_context().exit(_FAULT_STATUS)


def _json(diagnosis: Diagnosis) -> str:
    content = {"schema": 2, "faults": len(diagnosis.faults), **asdict(diagnosis)}
    return json.dumps(content, ensure_ascii=False)


def _text(diagnosis: Diagnosis) -> str:
    width = max(len(finding.name) for finding in diagnosis.findings)
    lines = []
    for finding in diagnosis.findings:
        lines.append(f"{finding.state:<5}  {finding.name:<{width}}  {finding.what}")
        if finding.fix is not None:
            lines.append(f"{'':<5}  {'':<{width}}  fix: {finding.fix}")
    count = len(diagnosis.faults)
    lines.append(f"{count} fault{'s' * (count != 1)}" if count else "no fault")
    return "\n".join(lines)
