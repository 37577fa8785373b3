"""What teachers tell a network: their word for each face, kept once they have been asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from facexp.geometry import KEYPOINTS, cut, invert
from facexp_train import fit, framing
from facexp_train.alignment import Shown
from facexp_train.config import Augmentation, TrainConfig
from facexp_train.errors import DataError
from facexp_train.keypoint_data import KeypointFaces
from facexp_train.progress import progress_bar
from facexp_train.stored import damaged, read_arrays, write_arrays

Teach = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]
"""uint8 crops (N, S, S, 1) -> probabilities (N, C) by head."""

_VIEW = Augmentation(flip=0.5, rotation=6.0, scale=0.08, shift=0.03)
"""How far views of a face lie from each other; what the mean over them is worth stands in docs/experiments.md."""
_NEAR_VIEW = Augmentation(flip=0, rotation=6.0, scale=0.06, shift=0.03)
"""The same for points."""
_BATCH = 512


def load_teachers(
    runs: Sequence[Path], config: TrainConfig, build: Callable[[TrainConfig], keras.Model]
) -> list[keras.Model]:
    """The best weights of a configuration's teachers, whose `runs` have ended, in networks that compute in its dtype.

    `build` makes the network of a teacher's configuration.
    """
    models = []
    with fit.dtype_policy(config.dtype):
        for number, run in enumerate(runs):
            model = build(config.teacher(number))
            fit.load_best(run, model)
            models.append(model)
    return models


def mean_of(models: Sequence[keras.Model], heads: Sequence[str]) -> Teach:
    """The mean of the networks' probabilities."""

    def teach(crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        answers = [model.predict_on_batch(crops) for model in models]
        return {head: np.mean([softmax(each[head], axis=1) for each in answers], axis=0) for head in heads}

    return teach


def over_views(
    teach: Teach, faces: Shown, views: int, seed: int, quiet: bool = False
) -> dict[str, NDArray[np.float32]]:
    """Probabilities (N, C) by head, the mean over that many views of each face.

    Half of the views are cut as the dataset cuts the face and half as the runtime does, where it is known how.
    """
    count = len(faces.images)
    rng = np.random.default_rng([seed, views])

    def placed(view: int) -> framing.Matrices:
        jitter = framing.jitter_matrices(rng, count, faces.size, _VIEW)
        return framing.compose(jitter, faces.cuts(np.arange(count), np.full(count, view % 2 == 1)))

    total: dict[str, NDArray[np.float64]] = {}
    for rows, crops, _ in _seen(faces.images, placed, faces.size, views, quiet):
        for head, chances in teach(crops).items():
            total.setdefault(head, np.zeros((count, chances.shape[1])))[rows] += chances
    return {head: (values / views).astype(np.float32) for head, values in total.items()}


def points_over_views(
    models: Sequence[keras.Model], faces: KeypointFaces, size: int, views: int, seed: int, quiet: bool = False
) -> NDArray[np.float32]:
    """Points (N, 15, 2) in canvas pixels: the mean of what the networks say of that many views of each face.

    Views are not mirrored: what sets of labels are off by, they are off by on one side (docs/experiments.md).
    """
    rng = np.random.default_rng([seed, views])
    framed = framing.square_matrices(faces.squares, size)

    def placed(_: int) -> framing.Matrices:
        return framing.compose(framing.jitter_matrices(rng, len(faces), size, _NEAR_VIEW), framed)

    total = np.zeros((len(faces), len(KEYPOINTS), 2))
    for rows, crops, matrices in _seen(faces.images, placed, size, views, quiet):
        said = np.mean([model.predict_on_batch(crops) for model in models], axis=0)
        total[rows] += framing.move_points(said, np.stack([invert(matrix) for matrix in matrices]))
    return (total / views).astype(np.float32)


def _seen(
    images: NDArray[np.uint8], placed: Callable[[int], framing.Matrices], size: int, views: int, quiet: bool
) -> Iterator[tuple[slice, NDArray[np.uint8], framing.Matrices]]:
    """Views of all faces, batch by batch: their rows, their crops, and the matrices that cut these.

    `placed` gives the matrices (N, 2, 3) of a view, counted from 0.
    """
    with progress_bar(views * len(images), "asking the teachers", "crop", quiet=quiet) as bar:
        for view in range(views):
            matrices = placed(view)
            for start in range(0, len(images), _BATCH):
                rows = slice(start, start + _BATCH)
                crops = cut(list(images[rows]), list(matrices[rows]), size)
                yield rows, crops, matrices[rows]
                bar.update(len(crops))


def kept(
    out: Path, names: Iterable[str], ask: Callable[[], dict[str, NDArray[np.float32]]]
) -> dict[str, NDArray[np.float32]]:
    """What teachers said, by name, from `out`/taught.npz; `ask` is called where there is no such file yet.

    DataError where the file is damaged or lacks one of the names.
    """
    path = out / "taught.npz"
    if not path.is_file():
        said = ask()
        with fit.writing(out, 0):
            write_arrays(path, said)
    mend = "delete it and go on with --resume"
    stored = read_arrays(path, mend)
    if missing := [name for name in names if name not in stored]:
        raise damaged(path, f"no {missing[0]} in it", mend)
    return {name: stored[name] for name in names}


def told_by_votes(votes: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """How probable each label is for a face, to judge by its FER+ votes alone: float32 (N, classes), all zero without.

    A logistic regression of the labels (N,) on each face's shares of its votes (N, 10), fitted on these very faces. The
    network never sees votes, but what teaches it may know more than it is shown (Vapnik and Vashist, "A new learning
    paradigm: Learning using privileged information", Neural Networks 2009). DataError where these faces have one label.
    """
    rated = votes.any(axis=1) & (labels >= 0)
    if len(np.unique(labels[rated])) < 2:
        raise DataError(
            f"votes_share: what votes tell of labels is learnt from faces with both, and the {rated.sum()} training "
            "faces that have them are not of two labels; set it to 0, or add votes"
        )
    shares = votes[rated] / votes[rated].sum(axis=1, keepdims=True)
    told = np.zeros((len(votes), classes), dtype=np.float32)
    fitted = LogisticRegression(C=10, max_iter=3000).fit(shares, labels[rated])
    told[np.ix_(rated, fitted.classes_)] = fitted.predict_proba(shares)
    return told
