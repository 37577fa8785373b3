"""The keypoint task of a training run: its data, network, teachers and validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from facexp.geometry import KEYPOINTS
from facexp_train.augmentation.framing import SIZE, jittered_crops
from facexp_train.config import TrainConfig
from facexp_train.data.keypoint_data import KeypointFaces
from facexp_train.errors import DataError
from facexp_train.evaluation.metrics import keypoint_errors
from facexp_train.fitting import fit
from facexp_train.fitting.batches import KeypointBatches
from facexp_train.fitting.losses import squared_error, weighted_distance
from facexp_train.fitting.teaching import cached_predictions, load_teachers, points_over_views
from facexp_train.networks.builders import build_network


class KeypointJob:
    """Training of the keypoint network on the training split.

    The best epoch is the one with the lowest error over the inter-ocular distance on the validation faces. DataError if
    the data has too few faces, or no training face with one of the 15 points.
    """

    monitor = "val_error_interocular"
    higher_is_better = False

    def __init__(self, faces: KeypointFaces, config: TrainConfig, quiet: bool = False) -> None:
        self.config = config
        self.quiet = quiet
        self.losses = squared_error if config.loss == "mse" else weighted_distance
        self.faces = faces.chosen((faces.split != "train") | ~np.isin(faces.names, config.leave_out))
        part = self.faces.part("train")
        held = faces.part("val")
        rated = held.rated()
        if not len(part.images) or not rated.any():
            raise DataError(
                f"{config.data}: {len(part.images)} training faces and {int(rated.sum())} validation faces "
                "with all 15 points; at least one of each is needed"
            )
        labelled = np.asarray(np.isfinite(part.points).any(axis=(0, 2)))
        if absent := [name for name, seen in zip(KEYPOINTS, labelled, strict=True) if not seen]:
            raise DataError(
                f"{config.data}: no training face is labelled with {', '.join(absent)}; all 15 points are needed"
            )
        self.batches = KeypointBatches(part, SIZE, config)
        if not self.batches.count:
            raise DataError(f"{config.data}: an epoch would show no face: check repeat and partial_share")
        crops, points = jittered_crops(held)
        self.held = crops[rated], points[rated], held.source[rated]

    def build(self) -> keras.Model:
        """A new, untrained network under the current dtype policy."""
        return self._network(self.config)

    def _network(self, config: TrainConfig) -> keras.Model:
        return build_network("keypoints", config.network, size=SIZE)

    def learn_from(self, teachers: Sequence[Path], out: Path) -> None:
        """Mix the teachers' predictions into the points of each face, and fill in the points that are not labelled.

        `teachers` are the directories of their finished runs. The predictions are saved in `out`/taught.npz.
        """

        def compute() -> dict[str, NDArray[np.float32]]:
            models = load_teachers(teachers, self.config, self._network)
            views, seed = self.config.teacher_views, self.config.seed
            return {"keypoints": points_over_views(models, self.batches.faces, SIZE, views, seed, self.quiet)}

        self.batches.learn(cached_predictions(out, ["keypoints"], compute)["keypoints"])

    def begin(self, model: keras.Model) -> None:
        """Do nothing: the network starts with its random weights."""

    def validate(self, model: keras.Model) -> fit.Validation:
        """Mean error over the inter-ocular distance, of all rated validation faces and of those of each source."""
        crops, points, source = self.held
        predicted = model.predict(crops, batch_size=256, verbose=0)
        face = keypoint_errors(predicted, points).face
        errors = {f"val_error_{name}": float(face[source == name].mean()) for name in np.unique(source)}
        return fit.Validation({self.monitor: float(face.mean()), **errors}, {"keypoints": predicted})

    def finish(self, model: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
        """The trained network, unchanged, and no further facts for the summary."""
        return model, {}

    def summary(self) -> dict[str, Any]:
        """The number of faces per source and split, without the training faces of `leave_out`."""
        keys, counts = np.unique(
            [f"{s}/{p}" for s, p in zip(self.faces.source, self.faces.split, strict=True)], return_counts=True
        )
        return {"faces": {str(key): int(count) for key, count in zip(keys, counts, strict=True)}}
