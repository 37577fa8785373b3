"""Pictures of a run: training curves and the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from facexp_train.calibration import Curve


def _save(figure: Figure, path: Path) -> None:
    beside = path.with_name(path.name + ".part")
    FigureCanvasAgg(figure).print_png(str(beside))  # type: ignore[no-untyped-call]
    beside.replace(path)


def draw_curves(history: Sequence[dict[str, float]], path: Path, monitor: str) -> None:
    """The loss and the validation metric that chooses the epoch, per epoch, as a PNG."""
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [row["loss"] for row in history], color="tab:blue")
    left.set(title="training loss", xlabel="epoch")
    right.plot(epochs, [row[monitor] for row in history], color="tab:orange")
    right.set(title=monitor.removeprefix("val_").replace("_", " ") + " (validation)", xlabel="epoch")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    _save(figure, path)


def draw_confusion(table: NDArray[np.int64], labels: Sequence[str], path: Path, title: str) -> None:
    """A confusion matrix (true rows, predicted columns): shade and text are the share of the true class, as a PNG."""
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(6.4, 5.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(labels)), labels, rotation=30)
    axes.set_yticks(
        range(len(labels)), [f"{label} ({count})" for label, count in zip(labels, table.sum(axis=1), strict=True)]
    )
    for row in range(len(labels)):
        for column in range(len(labels)):
            shade = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{100 * share[row, column]:.0f}", ha="center", va="center", color=shade)
    _save(figure, path)


def draw_calibration(curves: Mapping[str, Curve], path: Path, title: str) -> None:
    """How often labels are right over how probable they are said to be, a line a curve, as a PNG.

    A marker's area is in proportion to the faces of its bin; on the diagonal a probability means what it says.
    """
    figure = Figure(figsize=(5.6, 5.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    for (name, curve), colour in zip(curves.items(), ("tab:blue", "tab:orange", "tab:green"), strict=False):
        axes.plot(curve.confidence, curve.accuracy, color=colour, linewidth=1.5, label=name)
        axes.scatter(
            curve.confidence, curve.accuracy, 10 + 400 * curve.faces / curve.faces.sum(), color=colour, alpha=0.7
        )
    axes.set(title=title, xlabel="probability of the first label", ylabel="share of such labels that are right")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    _save(figure, path)
