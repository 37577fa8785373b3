"""The predictions of teachers, from which a network learns: computed once for each face and saved in the run directory.

Teachers are networks that were trained before (knowledge distillation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from facexp.geometry import KEYPOINTS, cut, invert
from facexp_train.augmentation import framing
from facexp_train.augmentation.alignment import TrainingFaces
from facexp_train.config import Augmentation, TrainConfig
from facexp_train.data.keypoint_data import KeypointFaces
from facexp_train.errors import DataError
from facexp_train.fitting import fit
from facexp_train.progress import progress_bar
from facexp_train.stored import damaged, read_arrays, write_arrays

Teach = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]
"""A function from uint8 crops (N, S, S, 1) to probabilities (N, C) by head."""

_EMOTION_VIEW = Augmentation(flip=0.5, rotation=6.0, scale=0.08, shift=0.03)
"""The random changes of the views of a face, for emotions; docs/experiments.md has the gain of a mean over views."""
_KEYPOINT_VIEW = Augmentation(flip=0, rotation=6.0, scale=0.06, shift=0.03)
"""The random changes of the views of a face, for points."""
_BATCH = 512


def load_teachers(
    runs: Sequence[Path], config: TrainConfig, build: Callable[[TrainConfig], keras.Model]
) -> list[keras.Model]:
    """The teachers of a configuration, with the weights of their best epochs.

    They compute in the dtype of `config`. `runs` are the directories of the teachers' finished runs, and `build` makes
    the network of a teacher's configuration.
    """
    models = []
    with fit.dtype_policy(config.dtype):
        for number, run in enumerate(runs):
            model = build(config.teacher(number))
            fit.load_best(run, model)
            models.append(model)
    return models


def mean_of(models: Sequence[keras.Model], heads: Sequence[str]) -> Teach:
    """Return a function that computes the mean of the networks' probabilities, by head."""

    def teach(crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        logits = [model.predict_on_batch(crops) for model in models]
        return {head: np.mean([softmax(each[head], axis=1) for each in logits], axis=0) for head in heads}

    return teach


def over_views(
    teach: Teach, faces: TrainingFaces, views: int, seed: int, quiet: bool = False
) -> dict[str, NDArray[np.float32]]:
    """Probabilities float32 (N, C) by head, the mean over `views` randomly changed crops of each face.

    Half of the views are cropped as in the dataset, and half as the runtime crops a face, if its alignment is known.
    """
    count = len(faces.images)
    rng = np.random.default_rng([seed, views])

    def view_matrices(view: int) -> framing.Matrices:
        jitter = framing.jitter_matrices(rng, count, faces.size, _EMOTION_VIEW)
        return framing.compose(jitter, faces.cuts(np.arange(count), np.full(count, view % 2 == 1)))

    total: dict[str, NDArray[np.float64]] = {}
    for rows, crops, _ in _views(faces.images, view_matrices, faces.size, views, quiet):
        for head, probabilities in teach(crops).items():
            total.setdefault(head, np.zeros((count, probabilities.shape[1])))[rows] += probabilities
    return {head: (values / views).astype(np.float32) for head, values in total.items()}


def points_over_views(
    models: Sequence[keras.Model], faces: KeypointFaces, size: int, views: int, seed: int, quiet: bool = False
) -> NDArray[np.float32]:
    """Points float32 (N, 15, 2) in canvas pixels: the networks' mean over `views` randomly changed crops of each face.

    Views are not mirrored: the labels of the datasets have systematic offsets to one side, which would be to the other
    side in predictions for mirrored views (docs/experiments.md).
    """
    rng = np.random.default_rng([seed, views])
    framed = framing.square_matrices(faces.squares, size)

    def view_matrices(_: int) -> framing.Matrices:
        return framing.compose(framing.jitter_matrices(rng, len(faces), size, _KEYPOINT_VIEW), framed)

    total = np.zeros((len(faces), len(KEYPOINTS), 2))
    for rows, crops, matrices in _views(faces.images, view_matrices, size, views, quiet):
        predicted = np.mean([model.predict_on_batch(crops) for model in models], axis=0)
        total[rows] += framing.move_points(predicted, np.stack([invert(matrix) for matrix in matrices]))
    return (total / views).astype(np.float32)


def _views(
    images: NDArray[np.uint8], view_matrices: Callable[[int], framing.Matrices], size: int, views: int, quiet: bool
) -> Iterator[tuple[slice, NDArray[np.uint8], framing.Matrices]]:
    """Views of all faces, batch by batch: their rows, their crops, and the matrices from images to crops.

    `view_matrices` returns the matrices (N, 2, 3) of a view, given its number, counted from 0.
    """
    with progress_bar(views * len(images), "running the teachers", "crop", quiet=quiet) as bar:
        for view in range(views):
            matrices = view_matrices(view)
            for start in range(0, len(images), _BATCH):
                rows = slice(start, start + _BATCH)
                crops = cut(list(images[rows]), list(matrices[rows]), size)
                yield rows, crops, matrices[rows]
                bar.update(len(crops))


def cached_predictions(
    out: Path, names: Iterable[str], compute: Callable[[], dict[str, NDArray[np.float32]]]
) -> dict[str, NDArray[np.float32]]:
    """The teachers' predictions by name, from `out`/taught.npz; if there is no such file, `compute` gives them.

    DataError if the file is damaged or lacks one of the names.
    """
    path = out / "taught.npz"
    if not path.is_file():
        predicted = compute()
        with fit.writing(out, 0):
            write_arrays(path, predicted)
    remedy = "delete it and continue with --resume"
    stored = read_arrays(path, remedy)
    if missing := [name for name in names if name not in stored]:
        raise damaged(path, f"no {missing[0]} in it", remedy)
    return {name: stored[name] for name in names}


def label_probabilities_from_votes(
    votes: NDArray[np.float32], labels: NDArray[np.int64], classes: int
) -> NDArray[np.float32]:
    """The probability of each label, predicted from FER+ votes alone: float32 (N, classes), zeros without votes.

    This is a logistic regression of the labels (N,), -1 for none, on each face's shares of votes, from `votes` (N, 10).
    It is fitted on the same faces. Votes are not an input of the network, but its targets may use information that the
    network does not have (Vapnik and Vashist, "A new learning paradigm: Learning using privileged information", Neural
    Networks 2009). DataError if the faces with votes and labels do not have at least two different labels.
    """
    rated = votes.any(axis=1) & (labels >= 0)
    if len(np.unique(labels[rated])) < 2:
        raise DataError(
            f"votes_share: labels are predicted from votes by a fit to faces with both, but the {rated.sum()} training "
            "faces that have them do not have two different labels; set it to 0, or add votes"
        )
    shares = votes[rated] / votes[rated].sum(axis=1, keepdims=True)
    probabilities = np.zeros((len(votes), classes), dtype=np.float32)
    fitted = LogisticRegression(C=10, max_iter=3000).fit(shares, labels[rated])
    probabilities[np.ix_(rated, fitted.classes_)] = fitted.predict_proba(shares)
    return probabilities
