"""A model's predictions in order, from the best to the worst, and how each is shown on a sheet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from facexp_train.data.emotion_data import EmotionFaces
from facexp_train.evaluation.evaluate import EmotionPredictions, KeypointPredictions
from facexp_train.reporting.sheets import Cell

Rows = NDArray[np.int64]

LABELLINGS = {
    "fer2013": "FER2013's labels",
    "ferplus": "FER+, single votes dropped",
    "ferplus_clear": "FER+, more than half of all votes",
    "own": "the data's own labels",
}
"""The name that readers see of each labelling that predictions are scored against."""


class Ranking(Protocol):
    """The predictions of one model for N faces, ordered by how good they are. Rows are indices of faces."""

    def ranked(self) -> Rows:
        """Return all faces that can be judged, from the best prediction to the worst."""

    def best(self) -> Rows:
        """Return the good predictions, the best first."""

    def worst(self) -> Rows:
        """Return the bad predictions, the worst first."""

    def score(self) -> str:
        """Return a short text that says how good the predictions are overall."""

    def cell(self, row: int) -> Cell:
        """Return the cell of a sheet that shows a face with its prediction and the truth."""


@dataclass(frozen=True)
class KeypointRanking:
    """Keypoints, judged by the error over the inter-ocular distance; faces without such an error are left out."""

    predictions: KeypointPredictions

    def ranked(self) -> Rows:
        """Return the faces from the smallest error to the largest."""
        order = np.argsort(self._errors, kind="stable")
        return order[np.isfinite(self._errors[order])]

    def best(self) -> Rows:
        """Return all judged faces, the smallest error first."""
        return self.ranked()

    def worst(self) -> Rows:
        """Return all judged faces, the largest error first."""
        return self.ranked()[::-1]

    def score(self) -> str:
        """Return the mean error, as text."""
        return f"mean error {100 * np.nanmean(self._errors):.1f}%"

    def cell(self, row: int) -> Cell:
        """Show the true and the predicted points, and the error."""
        predictions = self.predictions
        points = {"true": predictions.truth[row], "predicted": predictions.predicted[row]}
        caption = shortened(str(predictions.names[row])), f"error {100 * self._errors[row]:.1f}%"
        return Cell(predictions.images[row], caption, points)

    @cached_property
    def _errors(self) -> NDArray[np.float64]:
        return self.predictions.errors().face


@dataclass(frozen=True)
class EmotionRanking:
    """Emotions, judged by the probability of the true class; faces without a label are left out."""

    predictions: EmotionPredictions
    faces: EmotionFaces

    def ranked(self) -> Rows:
        """Return the faces from the largest probability of the true class to the smallest."""
        rows = np.flatnonzero(self.predictions.truth >= 0)
        of_true_class = self._probabilities[rows, self.predictions.truth[rows]]
        return rows[np.argsort(-of_true_class, kind="stable")]

    def best(self) -> Rows:
        """Return the correct predictions, the most confident first."""
        return self._by_confidence(correct=True)

    def worst(self) -> Rows:
        """Return the mistakes, the most confident first."""
        return self._by_confidence(correct=False)

    def score(self) -> str:
        """Return the accuracy, as text."""
        return f"{100 * len(self.best()) / max(1, len(self.ranked())):.1f}% correct"

    def cell(self, row: int) -> Cell:
        """Show the true class, the predicted class and its probability."""
        probabilities, labels = self._probabilities[row], self.predictions.labels
        predicted = int(probabilities.argmax())
        caption = (
            face_caption(str(self.faces.names[row])),
            f"true: {labels[self.predictions.truth[row]]}",
            f"predicted: {labels[predicted]} {100 * probabilities[predicted]:.0f}%",
        )
        return Cell(self.faces.images[row], caption)

    @cached_property
    def _probabilities(self) -> NDArray[np.float64]:
        return np.asarray(softmax(self.predictions.logits.astype(np.float64), axis=1))

    def _by_confidence(self, correct: bool) -> Rows:
        """The correct predictions or the mistakes, the most confident first."""
        probabilities, truth = self._probabilities, self.predictions.truth
        rows = np.flatnonzero((truth >= 0) & ((probabilities.argmax(axis=1) == truth) == correct))
        return rows[np.argsort(-probabilities[rows].max(axis=1), kind="stable")]


def face_caption(name: str) -> str:
    """Return the caption of a face: its row in a CSV file, or its file's name in a folder."""
    return f"row {name}" if name.isdecimal() else shortened(name)


def shortened(name: str) -> str:
    """Return a file's name, at most 24 letters to fit below its face: its end, which distinguishes files."""
    return name if len(name) <= 24 else f"...{name[-21:]}"
