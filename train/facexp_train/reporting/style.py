"""The style of all figures: colours that colour-blind people can tell apart, and text that is readable on a phone.

A figure of `WIDTH` inches fills a phone's screen, on which its text of 9 points is as large as the page's. Figures are
drawn at `DPI` pixels per inch, about twice the 96 of a page, so that they are sharp.
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
"""Okabe and Ito's palette ("Color Universal Design", 2008) without its yellow, which is hard to see on white: a colour
for each of seven classes."""
SHADES = "Blues"
"""The colour map of shares and counts: values can be read from its lightness alone."""
WIDTH = 4.8
DPI = 200

_MORE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "WenQuanYi Zen Hei", "Microsoft YaHei"),
    *("PingFang SC", "Hiragino Sans", "Malgun Gothic", "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS"),
)
# Any: matplotlib types the keys of its settings as literals, which a plain dictionary does not satisfy
_RC: Any = {
    # a "$" in the name of a file or class is not a formula
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
    """Fonts by preference: matplotlib's own, then the installed ones of `_MORE_FONTS`, with glyphs of other scripts."""
    installed = set(get_font_names())
    return ["DejaVu Sans", *(name for name in _MORE_FONTS if name in installed)]


@contextmanager
def drawing(path: Path, height: float = 3.2, width: float = WIDTH) -> Iterator[Figure]:
    """Yield a figure of `width` x `height` inches, and write it as a PNG at the end of the block, atomically.

    `with drawing(out / "loss.png") as figure: figure.subplots().plot(losses)`. The style applies only inside the block.
    Characters that no installed font has are drawn as boxes.
    """
    with rc_context({**_RC, "font.family": _families()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure
        # a title that is wider than the figure, as with the path of a model in it, would lose both ends
        for axes in figure.axes:
            axes.title.set_wrap(True)
        content = io.BytesIO()
        # without matplotlib's version in the file, the same numbers always give the same bytes; the usual level 6 takes
        # twice as long for a seventh less
        options: dict[str, Any] = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}}
        FigureCanvasAgg(figure).print_png(content, **options)  # type: ignore[no-untyped-call]
        write_atomically(path, content.getvalue())
