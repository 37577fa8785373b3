"""The progress bar of training and export, on stderr and only if that is a terminal."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: int, text: str, unit: str, *, quiet: bool = False, scale: bool = False) -> Any:
    """A tqdm bar over `total` units (bytes, images, batches); silent when quiet or when stderr is not a terminal.

    `scale` prints 300M instead of 300000000. Use the bar as a context manager and call its `update`.
    """
    hidden = quiet or not sys.stderr.isatty()
    return tqdm(total=total, desc=text, unit=unit, unit_scale=scale, disable=hidden, file=sys.stderr)
