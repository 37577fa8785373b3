"""Measuring how the training crops are framed, so that the runtime can frame faces in the same way.

For keypoints: the training square relative to the detector's box, and the mean positions of the points in the square.
For emotion: the median positions of the points in the dataset's own crops, to which the runtime aligns each face.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facexp.bundle import load_keypoints
from facexp.detector import Box, Detector
from facexp.errors import BundleError
from facexp.geometry import MIRROR, invert, transform
from facexp_export.errors import ExportError
from facexp_export.tasks import TASKS, ProgressCallback
from facexp_train.augmentation.alignment import exact_finder
from facexp_train.augmentation.framing import move_points, square_matrices
from facexp_train.data.emotion_data import EmotionFaces
from facexp_train.data.keypoint_data import KeypointFaces
from facexp_train.progress import progress_bar

FACES = 2000
"""Maximum number of faces to measure on."""
_SEED = 20261120
_MIN_DETECTED = 50
"""Minimum number of faces that the detector must find."""


def measure(
    faces: KeypointFaces | EmotionFaces, heads: list[str], bundle: Path, say: ProgressCallback
) -> dict[str, Any]:
    """Return the content of preprocessing.json: framing and mean_shape (keypoints), or template and heads (emotion)."""
    if isinstance(faces, KeypointFaces):
        return measure_keypoints(faces, say)
    return measure_emotion(faces, heads, bundle, say)


def measure_keypoints(faces: KeypointFaces, say: ProgressCallback) -> dict[str, Any]:
    """Measure `framing` and `mean_shape` on training faces that have all points.

    The framing is the median over the faces that the detector finds; ExportError if it finds too few.
    """
    part = faces.part("train")
    whole = part.complete()
    rows = np.sort(np.random.default_rng(_SEED).permutation(np.flatnonzero(whole))[:FACES])
    detector = Detector()
    found = []
    with progress_bar(len(rows), "framing", "face") as bar:
        for row in rows:
            x, y, side = part.squares[row]
            boxes = [face.box for face in detector.detect(part.images[row])]
            matches = [box for box in boxes if _contains(box, x, y)]
            if matches:
                left, top, width, height = matches[0]
                size = float(np.sqrt(width * height))
                found.append((side / size, (x - left - width / 2 + 0.5) / size, (y - top - height / 2 + 0.5) / size))
            bar.update()
    if len(found) < _MIN_DETECTED:
        raise ExportError(f"the detector finds {len(found)} of {len(rows)} training faces; {_MIN_DETECTED} are needed")
    values = np.array(found)
    middle, spread = np.median(values, axis=0), np.percentile(values, [16, 84], axis=0)
    scale, dx, dy = map(float, middle)
    say(
        f"framing on {len(found)} of {len(rows)} training faces: scale {scale:.3f} ({_span(spread[:, 0])}), "
        f"dx {dx:+.3f} ({_span(spread[:, 1])}), dy {dy:+.3f} ({_span(spread[:, 2])}); in brackets the middle 68%"
    )
    size = TASKS["keypoints"].size
    points = move_points(part.points[whole], square_matrices(part.squares[whole], size))
    return {
        # dx is 0, so that a face and its mirror image are framed alike
        "framing": {"scale": round(scale, 4), "dx": 0.0, "dy": round(dy, 4)},
        "mean_shape": _symmetric(points.mean(axis=0), size),
    }


def measure_emotion(faces: EmotionFaces, heads: list[str], bundle: Path, say: ProgressCallback) -> dict[str, Any]:
    """Measure `template` on training faces, with the keypoint network that `bundle` holds already.

    Returns it with `heads`, the outputs that the model has, in the task's order. ExportError if `bundle` holds no
    keypoint network.
    """
    try:
        spec = load_keypoints(bundle)
        finder = exact_finder(bundle, spec)
    except BundleError as error:
        raise ExportError(
            f"{error}; the emotion crop is aligned by keypoints: export a keypoint run there first"
        ) from error
    images = faces.part("train").images
    rows = np.sort(np.random.default_rng(_SEED).permutation(len(images))[:FACES])
    found = []
    with progress_bar(len(rows), "template", "face") as bar:
        for start in range(0, len(rows), 64):
            result = finder.find_in_crops([images[row] for row in rows[start : start + 64]])
            found += [transform(p, invert(matrix)) for p, matrix in zip(result.points, result.matrices, strict=True)]
            bar.update(len(result.points))
    size = TASKS["emotion"].size
    # the median, because the keypoints of some crops are wrong, and a few crops show no face
    template = np.median(np.stack(found), axis=0)
    say(f"template on {len(rows)} training faces")
    ranked = [name for name in TASKS["emotion"].outputs if name in heads]
    return {"template": _symmetric(template, size), "heads": ranked}


def _contains(box: Box, x: float, y: float) -> bool:
    left, top, width, height = box
    return left < x < left + width and top < y < top + height


def _span(values: NDArray[np.float64]) -> str:
    return f"{values[0]:+.3f} to {values[1]:+.3f}"


def _symmetric(points: NDArray[np.float32], size: int) -> list[list[float]]:
    """Return the mean of a shape and its mirror image, so that an asymmetry of the dataset has no effect."""
    mirrored = points[list(MIRROR)] * (-1, 1) + (size - 1, 0)
    return [[round(float(x), 3), round(float(y), 3)] for x, y in (points + mirrored) / 2]
