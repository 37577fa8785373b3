"""Options that several commands have, each in one place."""

from __future__ import annotations

from pathlib import Path

import click

DEVICE = click.Choice(["auto", "cpu", "cuda"])
BACKEND = click.Choice(["onnxruntime", "litert"])
EMOTIONS = click.Choice(["five", "seven"])
LABELS = click.Choice(["ferplus", "fer2013"])
SPLIT = click.Choice(["val", "test"])
BUNDLE = click.Path(exists=True, file_okay=False, path_type=Path)

bundle_option = click.option(
    "--bundle", type=BUNDLE, metavar="DIR", help="Another model bundle: the folder of its manifest.json."
)
votes_option = click.option(
    "--votes", type=click.Path(exists=True), help="FER+'s fer2013new.csv; default: the file of that name beside DATA."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
