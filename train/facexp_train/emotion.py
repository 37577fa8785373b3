"""The emotion task: its targets, validation and scores against both labellings."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from facexp.labels import SEVEN
from facexp_train.batches import EmotionBatches
from facexp_train.calibration import fit_temperature
from facexp_train.config import TrainConfig
from facexp_train.emotion_data import EmotionFaces, truths
from facexp_train.errors import DataError
from facexp_train.losses import soft_cross_entropy
from facexp_train.networks import emotion_network, mirror_averaged, with_temperatures


def targets(faces: EmotionFaces, smoothing: float) -> dict[str, NDArray[np.float32]]:
    """Per head a distribution (N, 7) in SEVEN's order, all zero where a face has no label.

    "fer2013": the file's own label, smoothed. "ferplus" (only where votes were read): the distribution of FER+'s votes.
    """
    classes = len(SEVEN)
    own = np.eye(classes, dtype=np.float32)[np.maximum(faces.labels, 0)] * (1 - smoothing) + smoothing / classes
    own[faces.labels < 0] = 0
    heads = {"fer2013": own.astype(np.float32)}
    if faces.votes is not None:
        votes, usable = faces.distributions()
        heads["ferplus"] = np.where(usable[:, None], votes, 0).astype(np.float32)
    return heads


def predict(model: keras.Model, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Logits (N, 7) per head for uint8 faces (N, 48, 48)."""
    return dict(model.predict(images[..., None], batch_size=512, verbose=0))


class EmotionJob:
    """Train on the training split, choose the epoch by the mean accuracy of the heads on the validation split."""

    monitor = "val_accuracy"
    higher_is_better = True

    def __init__(self, faces: EmotionFaces, config: TrainConfig) -> None:
        self.config = config
        self.faces = faces
        part = faces.part("train")
        self.held = faces.part("val")
        if not len(part.images) or not len(self.held.images):
            raise DataError(
                f"{config.data}: {len(part.images)} training and {len(self.held.images)} validation faces; "
                "both are needed"
            )
        self.targets = targets(part, config.label_smoothing)
        self.losses = dict.fromkeys(self.targets, soft_cross_entropy)
        self.batches = EmotionBatches(part.images, self.targets, config)

    def build(self) -> keras.Model:
        """A new network under the current dtype policy, with a head for each labelling that the data has."""
        return emotion_network(heads=tuple(self.targets), **self.config.network)

    def validate(self, model: keras.Model) -> dict[str, float]:
        """Accuracy per head over its rated faces, and their mean."""
        logits = predict(model, self.held.images)
        scores = {}
        for head, truth in truths(self.held).items():
            rated = truth >= 0
            scores[f"val_accuracy_{head}"] = float((logits[head].argmax(axis=1) == truth)[rated].mean())
        return {self.monitor: float(np.mean(list(scores.values()))), **scores}

    def finish(self, model: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
        """The trained network, averaged over a face and its mirror image, its probabilities made to mean something.

        Each head's temperature is fitted on the validation faces: on FER2013's own labels, and on the emotion that has
        more than half of a face's FER+ votes.
        """
        averaged = mirror_averaged(model)
        logits = predict(averaged, self.held.images)
        rated = truths(self.held)
        if self.held.votes is not None:
            rated["ferplus"] = self.held.clear_majority()
        temperatures = {head: round(fit_temperature(logits[head], rated[head]), 4) for head in logits}
        return with_temperatures(averaged, temperatures), {"temperatures": temperatures}

    def summary(self) -> dict[str, Any]:
        """Faces per split, and what was dropped."""
        names, counts = np.unique(self.faces.split, return_counts=True)
        return {
            "faces": {str(name): int(count) for name, count in zip(names, counts, strict=True)},
            "heads": list(self.targets),
        }
