"""Batches of augmented crops for Keras. A seed and an epoch give the same ones, however often a run was resumed."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from facexp.geometry import interocular
from facexp_train.augmentation import augment, framing
from facexp_train.augmentation.alignment import TrainingFaces
from facexp_train.config import Augmentation, TrainConfig
from facexp_train.data.keypoint_data import KeypointFaces
from facexp_train.fitting.teaching import Teach


class _Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Shuffled batches. `epoch`, set by the training loop, and the seed determine the order and every change."""

    def __init__(self, count: int, config: TrainConfig) -> None:
        super().__init__(workers=1, max_queue_size=8)
        self.config, self.batch_size, self.seed = config, config.batch_size, config.seed
        self.count, self.epoch = count, 0

    def __len__(self) -> int:
        return max(1, self.count // self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        order = self.order(self._rng())
        rows = order[index * self.batch_size : (index + 1) * self.batch_size]
        return self.batch(rows, self._rng(index))

    def _rng(self, *part: int) -> np.random.Generator:
        # numpy ignores a 0 at the end of a seed: with [seed, epoch, index] the first batch would get the random numbers
        # of the order
        return np.random.default_rng(np.random.SeedSequence([self.seed, self.epoch], spawn_key=part))

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation of this epoch's crops."""
        return self.config.augmentation_of(self.epoch)

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the rows of an epoch, shuffled."""
        return rng.permutation(self.count)

    def batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[Any, Any]:
        """Return the crops and targets of the given rows."""
        raise NotImplementedError


class KeypointBatches(_Batches):
    """uint8 crops (B, size, size, 1) and targets (B, 15, 3): x, y in crop pixels, and the point's weight.

    The weight is 1 over the face's inter-ocular distance, the unit in which errors are reported. So an error counts as
    much as in the score, also for a face in profile, whose eyes are close together. It is 0 for an unlabelled point.
    """

    def __init__(self, faces: KeypointFaces, size: int, config: TrainConfig) -> None:
        whole = faces.complete()
        times = np.array([config.repeat.get(str(source), 1) for source in faces.source])
        self.whole = np.repeat(np.arange(len(faces)), np.where(whole, times, 0))
        self.partial = np.repeat(np.arange(len(faces)), np.where(whole, 0, times))
        self.drawn = round(config.partial_share * len(self.partial))
        super().__init__(len(self.whole) + self.drawn, config)
        self.faces, self.points, self.size = faces, faces.points, size
        self.framing = framing.square_matrices(faces.squares, size)

    def learn(self, taught: NDArray[np.float32]) -> None:
        """Move labelled points towards the teachers' points, (N, 15, 2) in canvas pixels, by `teacher_share`.

        Where there is no label, the teachers' point is used alone.
        """
        share = np.where(np.isfinite(self.faces.points), self.config.teacher_share, 1.0)
        labels = np.nan_to_num(self.faces.points)
        self.points = (labels + share * (taught - labels)).astype(np.float32)

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the completely labelled faces, as often as `repeat` says, and a draw of the others, shuffled."""
        return rng.permutation(np.concatenate([self.whole, rng.permutation(self.partial)[: self.drawn]]))

    def batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[Any, Any]:
        """Return the crops and targets of the given rows."""
        jitter = framing.jitter_matrices(rng, len(rows), self.size, self.augmentation)
        matrices = framing.compose(jitter, self.framing[rows])
        points = framing.move_points(self.points[rows], matrices)
        known = np.isfinite(points).all(axis=2, keepdims=True)
        weight = known / _unit(points, self.size)[:, None, None]
        target = np.concatenate([np.where(known, points, 0), weight], axis=2).astype(np.float32)
        pixels = augment.warp_batch(self.faces.images[rows], matrices, self.size)
        pixels = augment.to_uint8(augment.change_pixels(pixels, rng, self.augmentation))
        return augment.degrade(pixels, rng, self.augmentation), target


def _unit(points: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """(N,) inter-ocular distances in pixels, at least an eighth of the crop's side.

    In full profile the distance is almost 0, but the labels are no more exact than those of other faces. If an eye is
    not labelled, the distance is that of an average face.
    """
    distance = interocular(points)
    return np.where(np.isfinite(distance), np.maximum(distance, size / 8), 0.37 * size)


class EmotionBatches(_Batches):
    """uint8 crops (B, size, size, 1) and, for each head, a distribution (B, C), all zero for a face without a label.

    With teachers, a target is the mean of the label and the teachers' probabilities, weighted by `teacher_share`.
    `taught` holds these probabilities (N, C) for each face, by head. Without it, `teach` computes them for every batch:
    the teachers then get the same crop as the network (Beyer et al., "Knowledge distillation: A good teacher is patient
    and consistent", CVPR 2022), but before changes of light, noise, blur, erasing, shrinking and JPEG, because the
    network should learn to give the same answer in spite of these. `vote_targets` holds probabilities (N, C) predicted
    from the votes, by head; they are mixed in last, with the weight `votes_share`.
    """

    teach: Teach | None = None
    taught: dict[str, NDArray[np.float32]] | None = None

    def __init__(self, faces: TrainingFaces, config: TrainConfig) -> None:
        labelled = np.any([values.any(axis=1) for values in faces.targets.values()], axis=0)
        self.labelled, self.unlabelled = np.flatnonzero(labelled), np.flatnonzero(~labelled)
        self.drawn = round(config.partial_share * len(self.unlabelled))
        super().__init__(len(self.labelled) + self.drawn, config)
        self.faces = faces
        self.vote_targets: dict[str, NDArray[np.float32]] = {}

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return every labelled face and this epoch's draw of the others, shuffled."""
        return rng.permutation(np.concatenate([self.labelled, rng.permutation(self.unlabelled)[: self.drawn]]))

    def batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[Any, Any]:
        """Return the crops and targets of the given rows."""
        jitter = framing.jitter_matrices(rng, len(rows), self.faces.size, self.augmentation)
        cuts = self.faces.cuts(rows, rng.random(len(rows)) < self.config.aligned)
        pixels = augment.warp_batch(self.faces.images[rows], framing.compose(jitter, cuts), self.faces.size)
        targets = {head: values[rows] for head, values in self.faces.targets.items()}
        if self.taught:
            targets = {head: self._mixed(values, self.taught[head][rows]) for head, values in targets.items()}
        elif self.teach:
            taught = self.teach(keras.ops.convert_to_numpy(augment.to_uint8(pixels)))
            targets = {head: self._mixed(values, taught[head]) for head, values in targets.items()}
        targets |= {head: self._with_votes(targets[head], votes[rows]) for head, votes in self.vote_targets.items()}
        pixels = augment.change_pixels(pixels, rng, self.augmentation)
        if rng.random() < self.augmentation.mixup:
            weight = rng.beta(0.4, 0.4)
            partner = rng.permutation(len(rows))
            pixels = weight * pixels + (1 - weight) * keras.ops.take(pixels, partner, axis=0)
            targets = {
                head: (weight * values + (1 - weight) * values[partner]).astype(np.float32)
                for head, values in targets.items()
            }
        return augment.degrade(augment.to_uint8(pixels), rng, self.augmentation), targets

    def _mixed(self, labels: NDArray[np.float32], taught: NDArray[np.float32]) -> NDArray[np.float32]:
        return _mean(labels, taught, np.where(labels.any(axis=1), self.config.teacher_share, 1.0))

    def _with_votes(self, targets: NDArray[np.float32], votes: NDArray[np.float32]) -> NDArray[np.float32]:
        return _mean(targets, votes, np.where(votes.any(axis=1), self.config.votes_share, 0.0))


def _mean(first: NDArray[np.float32], second: NDArray[np.float32], share: NDArray[np.float64]) -> NDArray[np.float32]:
    """The weighted mean of two distributions (B, C); the second has the weight `share` (B,)."""
    return (first + share[:, None] * (second - first)).astype(np.float32)
