"""The charts of a training run and of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import roc_curve

from facexp_train.evaluation.calibration import Curve
from facexp_train.evaluation.evaluate import EmotionPredictions
from facexp_train.evaluation.metrics import FAILURE, Figure, Floats, resample_weights
from facexp_train.reporting.style import COLOURS, SHADES, WIDTH, drawing

LIMIT = 0.2
"""The end of the cumulative error curve's axis, an error over the inter-ocular distance."""


def draw_curves(history: Sequence[dict[str, float]], path: Path, monitor: str, lower_is_better: bool = True) -> None:
    """Draw loss, learning rate and the validation metric that chooses the epoch (a share), per epoch, as a PNG."""
    epochs = [row["epoch"] for row in history]
    values = [100 * row[monitor] for row in history]
    best = (np.argmin if lower_is_better else np.argmax)(values)
    # runs of older versions have no learning rate in their log
    rates = [row.get("learning_rate", np.nan) for row in history]
    with drawing(path, height=6.3) as figure:
        loss, score, rate = figure.subplots(3, 1, sharex=True)
        loss.plot(epochs, [row["loss"] for row in history], marker="." if len(epochs) < 30 else None)
        loss.set(title="training loss", ylabel="loss")
        score.plot(epochs, values, color=COLOURS[1], marker="." if len(epochs) < 30 else None)
        score.plot(epochs[best], values[best], "o", color=COLOURS[1], markerfacecolor="none", markersize=9)
        title = f"validation, best {values[best]:.2f}% (epoch {epochs[best]:.0f})"
        score.set(title=title, ylabel=f"{_title(monitor)}, %")
        rate.plot(epochs, rates, color=COLOURS[2], marker="." if len(epochs) < 30 else None)
        rate.set(title="learning rate", xlabel="epoch", ylabel="at the epoch's end")
        rate.set_ylim(bottom=0)
        rate.xaxis.get_major_locator().set_params(integer=True)
        figure.align_ylabels()


def _title(metric: str) -> str:
    return {
        "val_error_interocular": "error / inter-ocular",
        "val_accuracy": "mean accuracy",
    }.get(metric, metric.removeprefix("val_").replace("_", " "))


def draw_confusion(table: NDArray[np.int64], labels: Sequence[str], path: Path, title: str) -> None:
    """Draw a confusion matrix (true rows, predicted columns) as a PNG, with shares of the true class and counts."""
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = max(WIDTH, 0.62 * len(labels) + 1.6)
    with drawing(path, height=side * 0.95, width=side) as figure:
        axes = figure.subplots()
        axes.grid(False)
        axes.imshow(share, cmap=SHADES, vmin=0, vmax=1)
        axes.set(title=title, xlabel="predicted", ylabel="true (faces)")
        axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right", rotation_mode="anchor")
        counted = [f"{label} ({count:,})" for label, count in zip(labels, table.sum(axis=1), strict=True)]
        axes.set_yticks(range(len(labels)), counted)
        for (row, column), value in np.ndenumerate(share):
            # the one with more contrast to the blue background
            shade = "white" if value > 0.7 else "black"
            axes.text(column, row - 0.14, f"{100 * value:.0f}%", ha="center", va="center", color=shade)
            below: dict[str, Any] = {"ha": "center", "va": "center", "color": shade, "fontsize": 7}
            axes.text(column, row + 0.24, f"{table[row, column]:,}", **below)


def draw_calibration(curves: Mapping[str, Curve], path: Path, title: str) -> None:
    """Draw reliability curves, accuracy over the probability of the predicted label, one line per curve, as a PNG.

    A marker's area is proportional to the number of faces in its bin. On the diagonal, probabilities are calibrated.
    """
    with drawing(path, height=4.4) as figure:
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color="0.6", linewidth=1, linestyle="--")
        for number, (name, curve) in enumerate(curves.items()):
            x, y, colour = 100 * curve.confidence, 100 * curve.accuracy, COLOURS[number]
            axes.plot(x, y, color=colour, linestyle=_LINES[number], label=name)
            axes.scatter(x, y, 10 + 400 * curve.faces / curve.faces.sum(), color=colour, alpha=0.7)
        axes.set(
            title=title,
            xlabel="probability of the predicted label, %",
            ylabel="share of such labels that are correct, %",
        )
        # leave room for a marker at the top
        axes.set(xlim=(0, 100), ylim=(0, 103))
        axes.legend(loc="lower right")


_LINES = ("-", "--", ":")


def draw_cumulative(
    faces: Mapping[str, tuple[Floats, NDArray[np.str_]]], path: Path, texts: Mapping[str, str], title: str
) -> None:
    """Draw cumulative error curves, the share of faces with at most an error, one per model with 95% band, as a PNG.

    `faces` holds for each model the errors over the inter-ocular distance (N,), NaN for a face that was not found, and
    the group names (N,) for the bootstrap. `texts` holds what the legend says of each model.
    """
    errors = np.linspace(0, LIMIT, 201)
    with drawing(path, height=3.6, width=WIDTH * 1.2) as figure:
        axes = figure.subplots()
        for number, (name, (values, groups)) in enumerate(faces.items()):
            weights = resample_weights(groups)
            below = (np.nan_to_num(values, nan=np.inf)[:, None] <= errors).astype(float)
            low, high = np.percentile(weights @ below / weights.sum(axis=1, keepdims=True), [2.5, 97.5], axis=0)
            axes.fill_between(100 * errors, 100 * low, 100 * high, color=COLOURS[number], alpha=0.2, linewidth=0)
            label = f"{name}: {texts[name]}"
            axes.plot(
                100 * errors, 100 * below.mean(axis=0), color=COLOURS[number], linestyle=_LINES[number], label=label
            )
        axes.axvline(100 * FAILURE, color="0.4", linewidth=1, linestyle=":")
        axes.text(100 * FAILURE + 0.2, 3, "failure threshold", fontsize=8, color="0.3")
        axes.set(title=title, xlabel="error / inter-ocular distance, %", ylabel="share of faces below, %")
        axes.set(xlim=(0, 100 * LIMIT), ylim=(0, 101))
        figure.legend(loc="outside lower center", ncols=1)


def draw_points(points: Mapping[str, Sequence[tuple[str, Figure]]], path: Path, title: str) -> None:
    """Draw each keypoint's error with its interval, one marker per model, as a PNG.

    `points` holds for each model the (name, figure) of every keypoint.
    """
    names = [name for name, _ in next(iter(points.values()))]
    with drawing(path, height=0.26 * len(names) + 1.1, width=WIDTH * 1.2) as figure:
        axes = figure.subplots()
        for number, (model, pairs) in enumerate(points.items()):
            shift = 0.2 * (number - (len(points) - 1) / 2)
            value, low, high = (np.array([100 * getattr(f, key) for _, f in pairs]) for key in ("value", "low", "high"))
            reach = np.maximum(0, [value - low, high - value])
            marks: dict[str, Any] = {"fmt": "os^"[number], "markersize": 4, "capsize": 2, "color": COLOURS[number]}
            axes.errorbar(value, np.arange(len(value)) + shift, xerr=reach, label=model, **marks)
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.invert_yaxis()
        axes.set(title=title, xlabel="error / inter-ocular distance, % (line: 95% interval)")
        axes.set_xlim(left=0)
        if len(points) > 1:
            figure.legend(loc="outside lower center", ncols=1)


def draw_roc(
    by_model: Mapping[str, EmotionPredictions], areas: Mapping[str, Mapping[str, str]], path: Path, title: str
) -> None:
    """Draw ROC curves of each class against the rest, one panel per class and one line per model, as a PNG.

    `by_model` holds the predictions of each model. `areas` holds the text for each curve, by model and class; a class
    without a text is not drawn.
    """
    labels = [
        label for label in next(iter(by_model.values())).labels if any(label in texts for texts in areas.values())
    ]
    columns = min(2, len(labels))
    rows = -(-len(labels) // columns)
    with drawing(path, height=2.75 * rows + 0.4, width=2.35 * columns) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, label in zip(panels, labels, strict=False):
            _roc_panel(axes, by_model, areas, label)
        for axes in panels[len(labels) :]:
            axes.set_axis_off()
        for axes in panels[::columns]:
            axes.set_ylabel("true positive rate, %")
        figure.suptitle(title, fontsize=10, wrap=True)
        if len(by_model) > 1:
            handles = panels[0].get_lines()[1:]
            figure.legend(handles, list(by_model), loc="outside lower center", ncols=1)


def _roc_panel(
    axes: Axes, by_model: Mapping[str, EmotionPredictions], areas: Mapping[str, Mapping[str, str]], label: str
) -> None:
    axes.plot([0, 100], [0, 100], color="0.6", linewidth=1, linestyle="--")
    for number, (name, predictions) in enumerate(by_model.items()):
        rated, code = predictions.truth >= 0, predictions.labels.index(label)
        probabilities = softmax(predictions.logits[rated].astype(float), axis=1)[:, code]
        false, true, _ = roc_curve(predictions.truth[rated] == code, probabilities)
        axes.plot(100 * false, 100 * true, color=COLOURS[number], linestyle=_LINES[number])
        place = 0.04 + 0.11 * (len(by_model) - 1 - number)
        text: dict[str, Any] = {"ha": "right", "fontsize": 8, "color": COLOURS[number], "transform": axes.transAxes}
        axes.text(0.97, place, areas[name].get(label, ""), **text)
    axes.set(
        title=label,
        xlabel="false positive rate, %",
        xlim=(-1, 101),
        ylim=(-1, 101),
        aspect="equal",
        xticks=(0, 50, 100),
        yticks=(0, 50, 100),
    )
