"""Faces with what a model answered to them: which answers are good and bad, and how each is shown on a sheet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from facexp_train.emotion_data import EmotionFaces
from facexp_train.evaluate import Located, View
from facexp_train.sheets import Cell

Rows = NDArray[np.int64]

LABELLINGS = {
    "fer2013": "FER2013's labels",
    "ferplus": "FER+, single votes dropped",
    "ferplus_clear": "FER+, more than half of all votes",
    "own": "the data's own labels",
}
"""What the labels that a view is scored by are to a reader."""


class Answered(Protocol):
    """Answers of one model to N faces; rows are numbers of faces."""

    def ranked(self) -> Rows:
        """All faces that can be judged, from the best answer to the worst."""

    def best(self) -> Rows:
        """The good answers, the best first."""

    def worst(self) -> Rows:
        """The bad answers, the worst first."""

    def score(self) -> str:
        """How good they are as a whole, in a few words."""

    def cell(self, row: int) -> Cell:
        """The face with its answer and the truth."""


@dataclass(frozen=True)
class AnsweredPoints:
    """Judged by the error over the inter-ocular distance; faces without one are left out."""

    located: Located

    def ranked(self) -> Rows:
        """From the smallest error to the largest."""
        order = np.argsort(self._errors, kind="stable")
        return order[np.isfinite(self._errors[order])]

    def best(self) -> Rows:
        """From the smallest error on."""
        return self.ranked()

    def worst(self) -> Rows:
        """From the largest error on."""
        return self.ranked()[::-1]

    def score(self) -> str:
        """The mean error."""
        return f"mean error {100 * np.nanmean(self._errors):.1f}%"

    def cell(self, row: int) -> Cell:
        """True and predicted points, and the error."""
        located = self.located
        points = {"true": located.truth[row], "predicted": located.predicted[row]}
        caption = short(str(located.names[row])), f"error {100 * self._errors[row]:.1f}%"
        return Cell(located.images[row], caption, points)

    @cached_property
    def _errors(self) -> NDArray[np.float64]:
        return self.located.errors().face


@dataclass(frozen=True)
class AnsweredEmotions:
    """Judged by the probability of the true class; faces that the labelling does not rate are left out."""

    view: View
    faces: EmotionFaces

    def ranked(self) -> Rows:
        """From the largest probability of the truth to the smallest."""
        rows = np.flatnonzero(self.view.truth >= 0)
        of_truth = self._chances[rows, self.view.truth[rows]]
        return rows[np.argsort(-of_truth, kind="stable")]

    def best(self) -> Rows:
        """The right answers, the most confident first."""
        return self._said(right=True)

    def worst(self) -> Rows:
        """The mistakes, the most confident first."""
        return self._said(right=False)

    def score(self) -> str:
        """The accuracy."""
        return f"{100 * len(self.best()) / max(1, len(self.ranked())):.1f}% right"

    def cell(self, row: int) -> Cell:
        """What is true, and what was said with which probability."""
        chances, labels = self._chances[row], self.view.labels
        said = int(chances.argmax())
        words = (
            called(str(self.faces.names[row])),
            f"true: {labels[self.view.truth[row]]}",
            f"said: {labels[said]} {100 * chances[said]:.0f}%",
        )
        return Cell(self.faces.images[row], words)

    @cached_property
    def _chances(self) -> NDArray[np.float64]:
        return np.asarray(softmax(self.view.logits.astype(np.float64), axis=1))

    def _said(self, right: bool) -> Rows:
        chances, truth = self._chances, self.view.truth
        rows = np.flatnonzero((truth >= 0) & ((chances.argmax(axis=1) == truth) == right))
        return rows[np.argsort(-chances[rows].max(axis=1), kind="stable")]


def called(name: str) -> str:
    """What a face is called below it, by its row in a CSV file or by its file in a folder."""
    return f"row {name}" if name.isdecimal() else short(name)


def short(name: str) -> str:
    """A file's name that fits below its face: the end, which tells files apart."""
    return name if len(name) <= 24 else f"...{name[-21:]}"
