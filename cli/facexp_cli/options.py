"""Options and parameter types that several commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

DEVICE = click.Choice(["auto", "cpu", "cuda"])
BACKEND = click.Choice(["onnxruntime", "litert"])
EMOTIONS = click.Choice(["five", "seven"])
LABELS = click.Choice(["ferplus", "fer2013"])
SPLIT = click.Choice(["val", "test"])


class PathName(click.Path):
    """A path, as `pathlib.Path`. "" (an unset shell variable) is refused: pathlib makes it the current directory."""

    def __init__(self, *, exists: bool = False, file_okay: bool = True, dir_okay: bool = True) -> None:
        """The arguments are those of click.Path."""
        super().__init__(exists=exists, file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Raises click.BadParameter."""
        if value == "":
            self.fail("is empty: give a name", param, ctx)
        return super().convert(value, param, ctx)


BUNDLE = PathName(exists=True, file_okay=False)


class Finite(click.FloatRange):
    """A finite number in a range. FloatRange itself accepts nan, for which every comparison with a bound is false."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number. Raises click.BadParameter."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


MOST_THREADS = 1024
THREADS = click.IntRange(1, MOST_THREADS)

bundle_option = click.option(
    "--bundle", type=BUNDLE, metavar="DIR", help="Another model bundle: the folder of its manifest.json."
)
votes_option = click.option(
    "--votes",
    type=click.Path(exists=True),
    help="FER+'s fer2013new.csv.  [default: the file of that name next to DATA]",
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
