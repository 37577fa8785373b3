"""Crops for an export: real faces for calibration and verification, and drawn faces to store in the bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facexp_export.errors import ExportError
from facexp_export.recipe import MIN_CALIBRATION_FACES, MIN_PARITY_CROPS, Recipe
from facexp_export.tasks import Task
from facexp_train.augmentation.framing import jittered_crops
from facexp_train.data.emotion_data import EmotionFaces, read_emotion
from facexp_train.data.keypoint_data import KeypointFaces, read_keypoints
from facexp_train.data.splits import pixel_hash

MIN_DISTINCT_PARITY_FACES = 64
"""Minimum number of different faces for verifying keypoints; fewer than MIN_PARITY_CROPS are framed several times."""
GOLDEN_FACES = 4
"""Number of drawn faces in a bundle."""

_SEED = 20261120
_GOLDEN_SEED = 7

Crops = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class RealFaces:
    """Two sets of uint8 crops (N, size, size, 1) that have no crop in common."""

    calibration: Crops
    """Crops from which the quantization ranges are measured."""
    parity: Crops
    """Crops on which the exported files are compared with the trained model."""


def read_faces(task: Task, data: Path, seed: int) -> KeypointFaces | EmotionFaces:
    """Read the faces that a network was trained on, with the task's labels.

    `seed` is the training run's seed, which determines the split of data that comes without one. Raises the reader's
    DataError.
    """
    return read_keypoints(data, seed=seed) if task.kind == "points" else read_emotion(data, seed=seed).of(task.labels)


def real_faces(faces: KeypointFaces | EmotionFaces, data: Path, recipe: Recipe) -> RealFaces:
    """Return calibration and verification crops; the recipe gives their splits and numbers, and the seed is fixed.

    Keypoint crops are framed with jitter, as a detector would frame them. Calibration crops that equal a verification
    crop are dropped. Raises ExportError that names `data` if there are too few faces.
    """
    rng = np.random.default_rng(_SEED)
    train, held = (faces.part(part.split) for part in (recipe.calibration, recipe.verification))
    many, judged = recipe.calibration.faces, recipe.verification.faces
    if isinstance(train, KeypointFaces) and isinstance(held, KeypointFaces):
        if len(train) < MIN_CALIBRATION_FACES or len(held) < MIN_DISTINCT_PARITY_FACES:
            raise ExportError(
                f"{data}: {len(train)} faces of {recipe.calibration.split} and {len(held)} of "
                f"{recipe.verification.split}; at least {MIN_CALIBRATION_FACES} and {MIN_DISTINCT_PARITY_FACES} are "
                "needed; give more with --data"
            )
        calibration = jittered_crops(train.chosen(_choice(len(train), many, rng)), seed=_SEED)[0]
        indices = np.resize(_choice(len(held), judged, rng), max(min(len(held), judged), MIN_PARITY_CROPS))
        parity = jittered_crops(held.chosen(indices), seed=_SEED + 1)[0]
    else:
        calibration = _some(train.images, many, rng)[..., None]
        parity = _some(held.images, judged, rng)[..., None]
    calibration = calibration[~np.isin(pixel_hash(calibration), pixel_hash(parity))]
    for crops, split, least, use in (
        (calibration, recipe.calibration.split, MIN_CALIBRATION_FACES, "calibrate on"),
        (parity, recipe.verification.split, MIN_PARITY_CROPS, "judge on"),
    ):
        if len(crops) < least:
            raise ExportError(
                f"{data}: {len(crops)} faces of {split} to {use}, at least {least} are needed; give more with --data"
            )
    return RealFaces(calibration, parity)


def _choice(count: int, wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.permutation(count)[:wanted])


def _some(images: Crops, wanted: int, rng: np.random.Generator) -> Crops:
    return images[_choice(len(images), wanted, rng)]


def drawn_faces(size: int) -> Crops:
    """Draw GOLDEN_FACES faces, uint8 (N, size, size, 1).

    They show no real person, so they may be published with the weights. Each has a head, eyes, brows, nose and mouth of
    its own position, size and lighting.
    """
    rng = np.random.default_rng(_GOLDEN_SEED)
    return np.stack([_draw_face(size, rng) for _ in range(GOLDEN_FACES)])[..., None]


def _draw_face(size: int, rng: np.random.Generator) -> Crops:
    # drawn at four times the size and averaged down: smooth edges that do not depend on a library's antialiasing
    full = 4 * size
    centre = full * (0.5 + rng.uniform(-0.04, 0.04, 2))
    unit = full * rng.uniform(0.9, 1.05)
    skin, dark = rng.uniform(130, 210), rng.uniform(20, 70)
    picture = np.full((full, full), rng.uniform(40, 120), np.float32)

    def ellipse(
        x: float, y: float, width: float, height: float, shade: float, start: float = 0, end: float = 360
    ) -> None:
        place = (round(centre[0] + x * unit), round(centre[1] + y * unit))
        thickness = -1 if end - start == 360 else round(0.02 * unit)
        cv2.ellipse(picture, place, (round(width * unit), round(height * unit)), 0, start, end, shade, thickness)

    ellipse(0, 0.02, 0.36, 0.48, skin)
    for side in (-1, 1):
        ellipse(side * 0.16, -0.1, 0.07, rng.uniform(0.02, 0.04), 235)
        ellipse(side * 0.16, -0.1, 0.025, 0.025, dark)
        ellipse(side * 0.16, -0.14, 0.1, rng.uniform(0.04, 0.07), dark, 200, 340)
    ellipse(0, 0.08, 0.05, 0.03, skin - 40, 0, 180)
    smile = rng.uniform(0.02, 0.1)
    if rng.random() < 0.5:
        ellipse(0, 0.2, 0.13, smile, dark, 10, 170)
    else:
        ellipse(0, 0.28, 0.13, smile, dark, 190, 350)
    light = np.linspace(rng.uniform(0.7, 1.0), rng.uniform(0.9, 1.2), full, dtype=np.float32)
    picture *= light[None, :]
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) + rng.normal(0, 3, (size, size))
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)
