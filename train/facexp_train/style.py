"""How every figure looks: colours that the colour-blind tell apart, text that is readable on a telephone.

A figure of `WIDTH` inches fills a telephone's screen, where text of 9 points is as large as the page's own; figures
are drawn at `DPI` pixels an inch, twice what a page shows, so that they are sharp.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from cycler import cycler
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names

from facexp.files import write_atomically

COLOURS: tuple[str, ...] = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette ("Color Universal Design", 2008) without its yellow, which white paper swallows: a colour for
each of seven classes."""
SHADES = "Blues"
"""The colour map of shares and counts: its lightness alone tells them."""
WIDTH = 4.8
DPI = 200

_MORE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "WenQuanYi Zen Hei", "Microsoft YaHei"),
    *("PingFang SC", "Hiragino Sans", "Malgun Gothic", "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS"),
)
# matplotlib types its settings by a list of all their names, which a dictionary of ours cannot have
_RC: Any = {
    # names of files and classes, which are no formulas
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.5,
    "image.cmap": "gray",
}


@cache
def _families() -> list[str]:
    """Fonts for the letters of all names: matplotlib's own, then those installed here that have Chinese ones ..."""
    here = set(get_font_names())
    return ["DejaVu Sans", *(name for name in _MORE_FONTS if name in here)]


@contextmanager
def drawing(path: Path, height: float = 3.2, width: float = WIDTH) -> Iterator[Figure]:
    """A figure of so many inches to draw into, which is written as a PNG at the end of the block, whole or not at all.

    `with drawing(out / "loss.png") as figure: figure.subplots().plot(losses)`; the style holds inside the block alone.
    Letters that no font here has are drawn as boxes.
    """
    with rc_context({**_RC, "font.family": _families()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure
        content = io.BytesIO()
        # no version of matplotlib inside: the same numbers give the same file
        FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})  # type: ignore[no-untyped-call]
        write_atomically(path, content.getvalue())
