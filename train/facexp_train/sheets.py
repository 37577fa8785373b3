"""Sheets of faces for people: each with its points and a few words below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from facexp.geometry import KEYPOINTS
from facexp_train.style import COLOURS, drawing

SIDE, COLUMNS, SHOWN = 1.5, 3, 18
SMALL, SMALL_COLUMNS = 1.05, 4
"""Inches of a face, how many of them fill a telephone's screen across, and how many a sheet shows; a page for a desk
shows two such sheets abreast."""
_LINE, _LETTER, _GAP, _NAME = 0.15, 0.058, 0.1, 0.18
"""Inches of a line of text and of a letter in it, between two faces, and of the name of a row."""
_MARKS: dict[str, dict[str, Any]] = {
    "true": {"marker": "o", "color": COLOURS[1], "markerfacecolor": "none", "markersize": 4.5},
    "predicted": {"marker": "x", "color": COLOURS[5], "markersize": 4.0},
    "left": {"marker": "o", "color": COLOURS[1], "markersize": 3.0, "markeredgecolor": "white", "markeredgewidth": 0.4},
    "right": {
        "marker": "s",
        "color": COLOURS[5],
        "markersize": 2.8,
        "markeredgecolor": "white",
        "markeredgewidth": 0.4,
    },
    "middle": {
        "marker": "D",
        "color": COLOURS[2],
        "markersize": 2.6,
        "markeredgecolor": "white",
        "markeredgewidth": 0.4,
    },
}
"""Shapes that differ, so that colour is not needed to tell them apart."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One face. `image` is uint8 (S, S), `points` float (K, 2) in its pixels by what they are: "true" and "predicted",
    or those of `sides`."""

    image: NDArray[np.uint8]
    caption: Sequence[str]
    points: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


def sides(points: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The (15, 2) points of a face by the person's side: "left", "right" and "middle"."""
    named = {
        side: [index for index, name in enumerate(KEYPOINTS) if side in name.split("_")] for side in ("left", "right")
    }
    named["middle"] = [index for index in range(len(KEYPOINTS)) if index not in named["left"] + named["right"]]
    return {side: points[indices] for side, indices in named.items()}


def draw_rows(rows: Mapping[str, Sequence[Cell]], path: Path) -> None:
    """Rows of small faces below their names, as a PNG; a row without a face is left out. ValueError where all are."""
    rows = {name: cells for name, cells in rows.items() if cells}
    columns = max(map(len, rows.values()), default=0)
    padded: list[Cell] = []
    for cells in rows.values():
        blank = Cell(np.full_like(cells[0].image, 255), ())
        padded += [*cells, *[blank] * (columns - len(cells))]
    draw_sheet(padded, path, columns, side=SMALL, names=list(rows))


def draw_sheet(
    cells: Sequence[Cell], path: Path, columns: int = COLUMNS, *, side: float = SIDE, names: Sequence[str] = ()
) -> None:
    """The faces in rows, each `side` inches, as a PNG; NaN points are left out. ValueError where there is no face.

    `names`, one for each row, stand above it.
    """
    if not cells:
        raise ValueError("a sheet needs at least one face")
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    words = max(len(cell.caption) for cell in cells)
    head = _NAME if names else 0.0
    across, down = side + _GAP, head + side + _GAP + words * _LINE
    kinds = [kind for kind in _MARKS if any(kind in cell.points for cell in cells)]
    # a sheet of few columns is still as wide as its legend
    width, top = max(columns * across, 1.5 * len(kinds)), 0.35 if kinds else 0.0
    with drawing(path, height=rows * down + top, width=width) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, rows * down / (rows * down + top)))
        for number, cell in enumerate(cells):
            row, column = divmod(number, columns)
            left, upper = column * across + _GAP / 2, row * down + head + _GAP / 2
            extent = (left, left + side, upper + side, upper)
            axes.imshow(cell.image, vmin=0, vmax=255, extent=extent, interpolation="bicubic")
            place = np.array([left, upper]), side / cell.image.shape[0]
            drawn = {kind: place[0] + (points + 0.5) * place[1] for kind, points in cell.points.items()}
            lines: list[Line2D] = []
            if "true" in drawn and "predicted" in drawn:
                pairs = np.stack([drawn["true"], drawn["predicted"]])
                lines = axes.plot(pairs[:, :, 0], pairs[:, :, 1], color="white", linewidth=0.7, zorder=2)
            for kind, points in drawn.items():
                lines += axes.plot(points[:, 0], points[:, 1], linestyle="none", zorder=3, **_MARKS[kind])
            # a point outside its picture is not to lie on another's words
            frame = Rectangle((left, upper), side, side, transform=axes.transData)
            for line in lines:
                line.set_clip_path(frame)
            for below, text in enumerate(cell.caption):
                # words that are too many for their face become small rather than lie on their neighbour's
                size = 8 * min(1.0, side / max(1, len(text)) / _LETTER)
                axes.text(left, upper + side + (below + 0.5) * _LINE, text, fontsize=size, va="center")
        for row, name in enumerate(names):
            axes.text(_GAP / 2, row * down + (_GAP + head) / 2, name, fontsize=8, weight="bold", va="center")
        axes.set(xlim=(0, width), ylim=(rows * down, 0), aspect="auto")
        axes.set_axis_off()
        if kinds:
            handles = [Line2D([], [], linestyle="none", label=f"{kind} points", **_MARKS[kind]) for kind in kinds]
            for handle in handles:
                handle.set_markersize(7)
            figure.legend(handles=handles, loc="upper left", ncols=len(handles))
