"""The emotion task: targets, validation and scores for the labellings of FER2013 and FER+, or for other classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from facexp.labels import FIVE
from facexp_train.augmentation.alignment import aligned_crops, training_faces
from facexp_train.config import TrainConfig
from facexp_train.data.emotion_data import EmotionFaces, truths
from facexp_train.data.splits import SPLITS
from facexp_train.errors import DataError
from facexp_train.evaluation.calibration import fit_temperature
from facexp_train.evaluation.ranking import LABELLINGS
from facexp_train.fitting import fit
from facexp_train.fitting.batches import EmotionBatches
from facexp_train.fitting.losses import grouped_cross_entropy, soft_cross_entropy
from facexp_train.fitting.teaching import (
    cached_predictions,
    label_probabilities_from_votes,
    load_teachers,
    mean_of,
    over_views,
)
from facexp_train.networks.builders import build_network
from facexp_train.networks.inheritance import inherit
from facexp_train.networks.resnet import mirror_symmetric, with_temperatures

_PAIRING_FACES = 256
"""Number of faces on which pairs of mirrored channels are found, when a mirrored network starts from a plain one."""


def targets(faces: EmotionFaces, smoothing: float) -> dict[str, NDArray[np.float32]]:
    """Return for each head a distribution (N, C) over the faces' classes, all zero for a face without a label.

    The head "fer2013", or "own" for other classes, has the file's labels, smoothed. The head "ferplus", only if votes
    were read, has the distributions of FER+'s votes.
    """
    classes = len(faces.classes)
    own = np.eye(classes, dtype=np.float32)[np.maximum(faces.labels, 0)] * (1 - smoothing) + smoothing / classes
    own[faces.labels < 0] = 0
    heads = {faces.labelling: own.astype(np.float32)}
    if faces.votes is not None:
        votes, usable = faces.distributions()
        heads["ferplus"] = np.where(usable[:, None], votes, 0).astype(np.float32)
    return heads


def predict(model: keras.Model, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Return logits (N, C) per head for uint8 faces (N, 48, 48)."""
    return dict(model.predict(images[..., None], batch_size=512, verbose=0))


def _check_classes(faces: EmotionFaces, data: str) -> None:
    """Raise DataError if there are training faces of fewer than two classes, or none of a class that is scored."""
    counts = {}
    for split in SPLITS:
        codes = faces.labels[faces.split == split]
        counts[split] = np.bincount(codes[codes >= 0], minlength=len(faces.classes))
    if np.count_nonzero(counts["train"]) < 2:
        found = ", ".join(faces.classes[code] for code in np.flatnonzero(counts["train"])) or "without a class"
        raise DataError(f"{data}: all training faces are {found}; at least two classes are needed")
    for split in ("val", "test"):
        for code in np.flatnonzero((counts[split] > 0) & (counts["train"] == 0)):
            raise DataError(
                f"{data}: {counts[split][code]} faces of split {split!r} are {faces.classes[code]}, and no training "
                f"face is; add training faces of that class, or leave it out of {split!r} too"
            )


def _loss(faces: EmotionFaces, config: TrainConfig) -> Callable[[Any, Any], Any]:
    five = [faces.classes.index(name) for name in FIVE if name in faces.classes]
    # there is a five-class view only if the classes are the five and others
    if config.five_weight and len(FIVE) == len(five) < len(faces.classes):
        return grouped_cross_entropy(five, config.five_weight)
    return soft_cross_entropy


class EmotionJob:
    """Trains on the training split; chooses the epoch by the mean accuracy of the heads on the validation split."""

    monitor = "val_accuracy"
    higher_is_better = True

    def __init__(self, faces: EmotionFaces, config: TrainConfig, quiet: bool = False) -> None:
        self.config = config
        self.faces = faces
        self.quiet = quiet
        part = faces.part("train")
        self.held = faces.part("val")
        if not len(part.images) or not len(self.held.images):
            left = faces.report
            raise DataError(
                f"{config.data}: {len(part.images)} training and {len(self.held.images)} validation faces; both are "
                f"needed. Left out of training: {left.copies} copies and {left.near_copies} near copies of validation "
                f"and test faces, or faces in a group with one, {left.flat} flat pictures"
            )
        _check_classes(faces, config.data)
        self.targets = targets(part, config.label_smoothing)
        for head, codes in truths(self.held).items():
            for split, rated in (("training", self.targets[head].any()), ("validation", (codes >= 0).any())):
                if not rated:
                    raise DataError(
                        f"{config.data}: no {split} face is rated by {LABELLINGS[head]}; move the votes away to train "
                        "on the file's own labels"
                    )
        self.losses = dict.fromkeys(self.targets, _loss(faces, config))
        self.batches = EmotionBatches(training_faces(part.images, self.targets, config, quiet), config)
        if config.votes_share and part.votes is not None:
            from_votes = label_probabilities_from_votes(part.votes, part.labels, len(part.classes))
            # the unlabelled faces follow the labelled ones
            others = len(self.batches.faces.images) - len(from_votes)
            self.batches.vote_targets = {part.labelling: np.pad(from_votes, ((0, others), (0, 0)))}
        self.held_crops = {"": self.held.images}
        if config.aligned:
            self.held_crops["_aligned"] = aligned_crops(self.held.images, quiet)

    def build(self) -> keras.Model:
        """Build a new network under the current dtype policy, with a head for each labelling that the data has."""
        return self.network(self.config)

    def network(self, config: TrainConfig) -> keras.Model:
        """Build a new network of another configuration, such as a teacher's, with the same heads and classes."""
        made = {"heads": tuple(self.targets), "classes": len(self.faces.classes)}
        return build_network("emotion", config.network, **made)

    def learn_from(self, teachers: Sequence[Path], out: Path) -> None:
        """Mix the mean of the teachers' probabilities into the targets. `teachers` are their completed runs.

        With `teacher_views` the probabilities of each face are computed once and kept in `out`/taught.npz.
        """
        models = load_teachers(teachers, self.config, self.network)
        self.first_teacher = models[0]
        teach = mean_of(models, tuple(self.targets))
        if not self.config.teacher_views:
            self.batches.teach = teach
            return
        faces, views = self.batches.faces, self.config.teacher_views
        self.batches.taught = cached_predictions(
            out, self.targets, lambda: over_views(teach, faces, views, self.config.seed, self.quiet)
        )

    def begin(self, model: keras.Model) -> None:
        """Give a new network the first teacher's weights, if the configuration says so."""
        if self.config.grow:
            self.begin_with(self.first_teacher, model)

    def begin_with(self, source: keras.Model, model: keras.Model) -> None:
        """Give a network the weights of `source`; DataError if they do not fit (see `inherit`)."""
        inherit(source, model, self.held.images[:_PAIRING_FACES, ..., None])

    def validate(self, model: keras.Model) -> fit.Validation:
        """Return the accuracy of each head over its rated faces, the mean of these, and the answers.

        Faces are cropped as the data crops them and, if some are trained so, also as the runtime crops them. The
        answers are those to the former.
        """
        scores = {}
        answers = {cut: predict(model, crops) for cut, crops in self.held_crops.items()}
        for cut, logits in answers.items():
            for head, truth in truths(self.held).items():
                rated = truth >= 0
                scores[f"val_accuracy_{head}{cut}"] = float((logits[head].argmax(axis=1) == truth)[rated].mean())
        return fit.Validation({self.monitor: float(np.mean(list(scores.values()))), **scores}, answers[""])

    def finish(self, model: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
        """Return the trained network with calibrated probabilities, and the temperatures.

        Each head's temperature is fitted on the validation faces: to the file's own labels, and to the emotions with
        more than half of a face's FER+ votes.
        """
        mirror_symmetric(model)
        logits = predict(model, self.held.images)
        rated = truths(self.held)
        if self.held.votes is not None:
            rated["ferplus"] = self.held.clear_majority()
        temperatures = {head: round(fit_temperature(logits[head], rated[head]), 4) for head in logits}
        return with_temperatures(model, temperatures), {"temperatures": temperatures}

    def summary(self) -> dict[str, Any]:
        """Return the number of faces per split, and the heads."""
        names, counts = np.unique(self.faces.split, return_counts=True)
        return {
            "faces": {str(name): int(count) for name, count in zip(names, counts, strict=True)},
            "heads": list(self.targets),
        }
