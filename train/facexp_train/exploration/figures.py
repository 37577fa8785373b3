"""The pictures of `facexp explore`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from facexp.geometry import KEYPOINTS
from facexp_train.data.splits import SPLITS
from facexp_train.evaluation.ranking import face_caption
from facexp_train.exploration.shapes import Shape, known_points, mean_shape
from facexp_train.exploration.survey import Survey
from facexp_train.reporting.sheets import SMALL, SMALL_COLUMNS, Cell, draw_rows, draw_sheet, sides
from facexp_train.reporting.style import COLOURS, drawing

_DOTS = 2000
"""Number of faces whose points are drawn on top of each other; more would hide where most points lie."""
_LETTERS = 16
"""Letters per line of a text below a face."""


def draw_shares(counts: Mapping[str, NDArray[np.int64]], names: Sequence[str], path: Path, label: str) -> None:
    """Draw bars of the share of each name in each split, with counts; `counts` has an array (names,) per split."""
    with drawing(path, 0.8 + 0.3 * len(names) * max(1, len(counts) / 2)) as figure:
        axes = figure.subplots()
        height = 0.8 / len(counts)
        places = np.arange(len(names))
        for number, (split, count) in enumerate(counts.items()):
            shares = 100 * count / max(1, count.sum())
            bars = axes.barh(places + (number - (len(counts) - 1) / 2) * height, shares, height, label=split)
            axes.bar_label(bars, [f"{value:,}" for value in count], fontsize=6.5, padding=2)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.14)
        axes.set(xlabel=label)
        if len(counts) > 1:
            figure.legend(loc="outside upper center", ncols=len(counts))


def draw_missing(points: NDArray[np.float32], path: Path) -> None:
    """Draw bars of the share of the faces in which each point is labelled."""
    known = known_points(points)
    with drawing(path, 3.9) as figure:
        axes = figure.subplots()
        bars = axes.barh(np.arange(len(KEYPOINTS)), 100 * known.mean(axis=0))
        axes.bar_label(bars, [f"{value:,}" for value in known.sum(axis=0)], fontsize=6.5, padding=2)
        axes.set_yticks(np.arange(len(KEYPOINTS)), [name.replace("_", " ") for name in KEYPOINTS])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="faces with this point, %", xlim=(0, 115))


def draw_light(
    brightness: NDArray[np.float64], contrast: NDArray[np.float64], split: NDArray[np.str_], path: Path
) -> None:
    """Draw histograms of the pictures' mean and standard deviation, a line for each split."""
    with drawing(path, 4.2) as figure:
        for axes, values, end, label in zip(
            figure.subplots(2, 1),
            (brightness, contrast),
            (255, 128),
            ("brightness: mean of the pixels, 0 to 255", "contrast: standard deviation of the pixels, 0 to 127.5"),
            strict=True,
        ):
            bins = np.linspace(0, end, 52)
            for name in SPLITS:
                if chosen := (split == name).sum():
                    weights = np.full(chosen, 100 / chosen)
                    axes.hist(values[split == name], bins, weights=weights, histtype="step", label=name, linewidth=1.3)
            axes.set(xlabel=label, ylabel="pictures, %", xlim=(0, end))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)


def draw_samples(survey: Survey, path: Path, rng: np.random.Generator) -> None:
    """Draw randomly chosen faces: a row for each class, or a sheet of faces with their points."""
    if survey.labels is None:
        chosen = rng.permutation(len(survey))[:24]
        draw_sheet([_cell(survey, face) for face in chosen], path, SMALL_COLUMNS, side=SMALL)
        return
    rows = {}
    for code, name in enumerate(survey.classes):
        of_class = rng.permutation(np.flatnonzero(survey.labels == code))[:SMALL_COLUMNS]
        rows[name] = [_cell(survey, face) for face in of_class]
    draw_rows(rows, path)


def draw_faces(survey: Survey, faces: Sequence[int] | NDArray[np.int64], details: Sequence[str], path: Path) -> None:
    """Draw a sheet of the given faces, each with its row and a short text."""
    cells = [_cell(survey, face, detail) for face, detail in zip(faces, details, strict=True)]
    draw_sheet(cells, path, SMALL_COLUMNS, side=SMALL)


def _cell(survey: Survey, face: int, detail: str = "") -> Cell:
    before, of_another, row = detail.rpartition(" row ")
    if of_another and not row.isdecimal():
        # the name of a file, which is drawn smaller instead of being wrapped and cut
        below = [f"{before} row", _file_caption(row)]
    else:
        # without underscores, names of points can wrap between their words
        below = textwrap.wrap(detail.replace("_", " "), _LETTERS)[:3]
    lines = [_file_caption(str(survey.rows[face])), *below]
    return Cell(survey.images[face], lines, {} if survey.points is None else sides(survey.points[face]))


def _file_caption(row: str) -> str:
    return face_caption(row.rpartition("/")[2])


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS // 2] + "…" + text[-_LETTERS // 2 + 1 :]


def draw_mean_faces(survey: Survey, path: Path) -> None:
    """Draw the mean of all pictures and of each class."""
    cells = [Cell(_mean(survey.images), ("all", f"{len(survey):,}"))]
    if survey.labels is not None:
        for code, name in enumerate(survey.classes):
            if (survey.labels == code).any():
                images = survey.images[survey.labels == code]
                cells.append(Cell(_mean(images), (_short(name), f"{len(images):,}")))
    draw_sheet(cells, path, SMALL_COLUMNS, side=SMALL)


def _mean(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(images.mean(axis=0)), np.uint8)


def draw_mean_shape(survey: Survey, path: Path) -> Shape:
    """Draw the mean picture with each point's mean and an ellipse, which holds the point in about 87% of the faces.

    Returns the mean points and their spread.
    """
    assert survey.points is not None
    shape = mean_shape(survey.points)
    size = survey.images.shape[1]
    with drawing(path, 4.4) as figure:
        axes = _pixel_axes(figure.subplots(), size)
        axes.imshow(_mean(survey.images), vmin=0, vmax=255)
        for mean, spread in zip(shape.mean, shape.spread, strict=True):
            if np.isfinite(spread).all():
                variances, directions = np.linalg.eigh(spread)
                # full axes of four standard deviations: two on each side of the mean
                width, height = 4 * np.sqrt(np.maximum(variances, 0))
                angle = float(np.degrees(np.arctan2(directions[1, 0], directions[0, 0])))
                axes.add_patch(Ellipse(tuple(mean), width, height, angle=angle, fill=False, color=COLOURS[5]))
        xs, ys = shape.mean.T
        axes.scatter(xs, ys, s=12, color=COLOURS[1], edgecolors="white", linewidths=0.5, zorder=3)
    return shape


def draw_scatter(survey: Survey, path: Path, rng: np.random.Generator) -> None:
    """Draw the points of many faces on top of each other; neighbouring points have different colours."""
    assert survey.points is not None
    size = survey.images.shape[1]
    chosen = survey.points[rng.permutation(len(survey))[:_DOTS]]
    with drawing(path, 4.4) as figure:
        axes = _pixel_axes(figure.subplots(), size)
        for number in range(len(KEYPOINTS)):
            xs, ys = chosen[:, number].T
            axes.scatter(xs, ys, s=1.5, alpha=0.35, color=COLOURS[number % 6], linewidths=0)


def _pixel_axes(axes: Axes, size: int) -> Axes:
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xlabel="x, pixels", ylabel="y, pixels")
    axes.grid(visible=False)
    return axes
