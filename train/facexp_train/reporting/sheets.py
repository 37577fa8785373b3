"""Sheets, which are pictures of many faces in rows, each face with its keypoints and a short caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from facexp.address import as_utf8
from facexp.geometry import KEYPOINTS
from facexp_train.reporting.style import COLOURS, DPI, drawing

SIDE, COLUMNS, SHOWN = 1.5, 3, 18
SMALL, SMALL_COLUMNS = 1.05, 4
"""Side of a face in inches, the number of faces that fill the width of a phone's screen, and the number that a sheet
shows; SMALL is for rows of small faces. On a desktop screen two such sheets fit side by side."""
_LINE, _LETTER, _GAP, _NAME = 0.15, 0.064, 0.1, 0.18
"""In inches: height of a line of text, width of a letter in it, gap between two faces, height of a row's name."""
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
"""Markers with different shapes, so that they can be distinguished without colour."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One face of a sheet.

    `image` is uint8 (S, S) and `caption` its lines of text. `points` are float (K, 2) in pixels of the image, by kind:
    "true" and "predicted", or the kinds that `sides` returns.
    """

    image: NDArray[np.uint8]
    caption: Sequence[str]
    points: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class _Pixels(Artist):
    """Pixels of a figure's lower left corner, behind everything else: matplotlib's own images would be resampled."""

    def __init__(self, gray: NDArray[np.uint8]) -> None:
        super().__init__()
        self._pixels = cv2.cvtColor(gray[::-1], cv2.COLOR_GRAY2RGBA)
        self.set_zorder(-1)

    def draw(self, renderer: RendererBase) -> None:
        """Draw the pixels as they are."""
        renderer.draw_image(renderer.new_gc(), 0, 0, self._pixels)


def sides(points: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The (15, 2) points of a face, divided by the person's side: "left", "right" and "middle"."""
    by_side = {
        side: [index for index, name in enumerate(KEYPOINTS) if side in name.split("_")] for side in ("left", "right")
    }
    by_side["middle"] = [index for index in range(len(KEYPOINTS)) if index not in by_side["left"] + by_side["right"]]
    return {side: points[indices] for side, indices in by_side.items()}


def draw_rows(rows: Mapping[str, Sequence[Cell]], path: Path) -> None:
    """Draw rows of small faces, each below the row's name, as a PNG; rows without faces are left out.

    ValueError if no row has a face.
    """
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
    """Draw the faces in rows, each face `side` inches wide and high, as a PNG. Points that are NaN are left out.

    `names` are headings, one for each row, drawn above it. ValueError if there is no face.
    """
    if not cells:
        raise ValueError("a sheet needs at least one face")
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    lines_below = max(len(cell.caption) for cell in cells)
    head = _NAME if names else 0.0
    across, down = side + _GAP, head + side + _GAP + lines_below * _LINE
    kinds = [kind for kind in _MARKS if any(kind in cell.points for cell in cells)]
    # a sheet with few columns must still be as wide as its legend
    width, top = max(columns * across, 1.5 * len(kinds)), 0.35 if kinds else 0.0
    with drawing(path, height=rows * down + top, width=width) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, rows * down / (rows * down + top)))
        # one picture of all faces, which matplotlib draws far faster than one picture for each
        canvas = np.full((round(DPI * rows * down), round(DPI * width)), 255, np.uint8)
        pixels = round(DPI * side)
        for number, cell in enumerate(cells):
            row, column = divmod(number, columns)
            left, upper = column * across + _GAP / 2, row * down + head + _GAP / 2
            y, x = round(DPI * upper), round(DPI * left)
            canvas[y : y + pixels, x : x + pixels] = cv2.resize(
                cell.image, (pixels, pixels), interpolation=cv2.INTER_CUBIC
            )
            place = np.array([left, upper]), side / cell.image.shape[0]
            drawn = {kind: place[0] + (points + 0.5) * place[1] for kind, points in cell.points.items()}
            lines: list[Line2D] = []
            if "true" in drawn and "predicted" in drawn:
                pairs = np.stack([drawn["true"], drawn["predicted"]])
                lines = axes.plot(pairs[:, :, 0], pairs[:, :, 1], color="white", linewidth=0.7, zorder=2)
            for kind, points in drawn.items():
                lines += axes.plot(points[:, 0], points[:, 1], linestyle="none", zorder=3, **_MARKS[kind])
            # do not draw a point outside its picture, where it would cover the captions and faces of others
            frame = Rectangle((left, upper), side, side, transform=axes.transData)
            for line in lines:
                line.set_clip_path(frame)
            for below, text in enumerate(cell.caption):
                # text that is wider than its face is drawn smaller, so that it does not overlap the next caption
                size = 8 * min(1.0, side / max(1, len(text)) / _LETTER)
                axes.text(left, upper + side + (below + 0.5) * _LINE, as_utf8(text), fontsize=size, va="center")
        for row, name in enumerate(names):
            axes.text(_GAP / 2, row * down + (_GAP + head) / 2, name, fontsize=8, weight="bold", va="center")
        figure.add_artist(_Pixels(canvas))
        axes.set(xlim=(0, width), ylim=(rows * down, 0), aspect="auto")
        axes.set_axis_off()
        if kinds:
            handles = [Line2D([], [], linestyle="none", label=f"{kind} points", **_MARKS[kind]) for kind in kinds]
            for handle in handles:
                handle.set_markersize(7)
            figure.legend(handles=handles, loc="upper left", ncols=len(handles))
