"""Two models on the same faces: the figures of each, and the differences with paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from facexp_train.errors import DataError
from facexp_train.evaluation.evaluate import Evaluation
from facexp_train.evaluation.metrics import (
    Figure,
    Floats,
    Metric,
    figure,
    keypoint_metrics,
    model_figure,
    resample_weights,
    unit,
)
from facexp_train.evaluation.ranking import shortened


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of two models on the same faces. `difference` is the second model's value minus the first's.

    Its interval comes from resampling the same faces for both models, so that faces that are hard for both do not widen
    it.
    """

    metric: str
    first: Figure
    second: Figure
    difference: Figure

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return not self.difference.low <= 0 <= self.difference.high


def compare(first: Evaluation, second: Evaluation) -> list[Difference]:
    """Return every metric that both evaluations have, on the same faces; DataError if there is none."""
    split = first.split
    if first.keypoints is not None and second.keypoints is not None:
        errors = first.keypoints.errors(), second.keypoints.errors()
        rated = np.isfinite(errors[0].face) & np.isfinite(errors[1].face)
        metrics = [keypoint_metrics(each.chosen(rated)) for each in errors]
        return _differences("", metrics[0], metrics[1], split, resample_weights(first.keypoints.groups[rated]))
    others = {(each.name, each.labels): each for each in second.emotions}
    found: list[Difference] = []
    for each in first.emotions:
        other = others.get((each.name, each.labels))
        if other is not None:
            weights = resample_weights(each.groups[each.truth >= 0])
            found += _differences(f"{each.name}/", each.metrics(), other.metrics(), split, weights)
    if not found:
        raise DataError("the two models have nothing in common to compare: their outputs or their classes differ")
    return found


def _differences(
    prefix: str, first: Mapping[str, Metric], second: Mapping[str, Metric], split: str, weights: Floats
) -> list[Difference]:
    found = []
    for name in first:
        if name in second:
            metric = prefix + name
            one, other = (model_figure(split, metric, model[name], weights) for model in (first, second))
            difference = figure(split, metric, partial(_minus, first[name], second[name]), weights)
            found.append(Difference(metric, one, other, difference))
    return found


def _minus(first: Metric, second: Metric, weights: Floats) -> Floats:
    return second(weights) - first(weights)


def comparison_table(differences: Sequence[Difference], names: Sequence[str]) -> str:
    """Return both models' figures and the differences, as text; "*" marks an interval that excludes zero."""
    width = max(len(each.metric) for each in differences) + 6
    first, second = map(shortened, names)
    lines = [f"{'metric':<{width}}{'faces':>7}{first:>26}{second:>26}{'difference':>28}"]
    for each in differences:
        cells = [figure.text() for figure in (each.first, each.second, each.difference)]
        name = f"{each.metric}, {unit(each.metric)}"
        mark = " *" if each.clear else ""
        lines.append(f"{name:<{width}}{each.first.n:>7}{cells[0]:>26}{cells[1]:>26}{cells[2]:>28}{mark}")
    return "\n".join([*lines, "", "difference: second minus first, on the same faces; * its 95% interval excludes 0"])
