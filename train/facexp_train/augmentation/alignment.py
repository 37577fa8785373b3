"""Faces cropped as the runtime crops them for the emotion network: aligned by the keypoints that a network finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp.alignment import Alignment
from facexp.bundle import Bundle, KeypointsSpec, read_model
from facexp.errors import FacexpError
from facexp.geometry import cut
from facexp.keypoints import KeypointFinder
from facexp.session import Session
from facexp_train.augmentation.framing import Matrices, compose, square_matrices
from facexp_train.config import TrainConfig
from facexp_train.data.emotion_data import SIZE
from facexp_train.data.keypoint_data import read_keypoints
from facexp_train.data.splits import digest_of
from facexp_train.errors import DataError
from facexp_train.progress import progress_bar

_BATCH = 64
_MARGIN = 12
"""Pixels around the crop of an unlabelled face, about as far as the random jitter of the crop reaches."""


def alignments(
    images: NDArray[np.uint8],
    squares: NDArray[np.float64],
    quiet: bool = False,
    bundle: Path | None = None,
    precision: str | None = None,
) -> Matrices:
    """Return (N, 2, 3) matrices from uint8 (N, S, S) images to the emotion network's crops.

    `squares` (N, 3) are centre x, centre y and side, in pixels, of the squares that frame the faces. `bundle` is the
    directory of the bundle with the keypoint network to align by; None is the shipped bundle. `precision` is that of
    the network's ONNX file; if it is None, or the bundle has no such file, the most exact file is used. Raises
    DataError if the network cannot run, most often because onnxruntime is not installed.
    """
    try:
        loaded = Bundle.load(bundle)
        spec = loaded.keypoints
        key = f"{precision}.onnx"
        finder = _finder(loaded.path, spec, key) if key in spec.files else exact_finder(loaded.path, spec)
    except FacexpError as error:
        network = "shipped keypoint network" if bundle is None else f"keypoint network of {bundle}"
        raise DataError(f"cannot align the faces by the {network}: {error}") from error
    alignment = Alignment.of(spec, loaded.emotion)
    framing = square_matrices(squares, spec.size)
    matrices: list[NDArray[np.float64]] = []
    with progress_bar(len(images), "aligning", "face", quiet=quiet) as bar:
        for start in range(0, len(images), _BATCH):
            rows = slice(start, start + _BATCH)
            matrices += alignment.matrices(finder.find(list(images[rows]), list(framing[rows])))
            bar.update(len(images[rows]))
    return np.stack(matrices)


def exact_finder(directory: Path, spec: KeypointsSpec) -> KeypointFinder:
    """Load the keypoint network of a bundle's directory from its most exact ONNX file.

    Raises BundleError or DeviceError if the file cannot be read or cannot run.
    """
    return _finder(directory, spec, spec.most_exact_key() or "float32.onnx")


def _finder(directory: Path, spec: KeypointsSpec, key: str) -> KeypointFinder:
    return KeypointFinder(Session(read_model(directory, spec, key), spec, key), spec)


def aligned_crops(
    images: NDArray[np.uint8], quiet: bool = False, bundle: Path | None = None, precision: str | None = None
) -> NDArray[np.uint8]:
    """Return uint8 (N, 48, 48) crops, as the runtime cuts them, of images (N, S, S) that are each filled by a face.

    See `alignments` for the arguments and errors.
    """
    return cut(list(images), list(alignments(images, _full_squares(images), quiet, bundle, precision)), SIZE)[..., 0]


@dataclass(frozen=True, slots=True)
class TrainingFaces:
    """The N faces that an emotion network is trained on.

    Attributes:
        images: uint8 (N, S, S); the middle `size` pixels of each are the dataset's own crop.
        size: side of a crop in pixels.
        targets: for each head a distribution (N, C) over the classes, all zero for a face without a label.
        aligned: (N, 2, 3) matrices from the dataset's crop to the runtime's; None if only the dataset's is used.
        unlabelled: digest of the unlabelled faces, "" if there are none.
    """

    images: NDArray[np.uint8]
    size: int
    targets: dict[str, NDArray[np.float32]]
    aligned: Matrices | None = None
    unlabelled: str = ""

    def cuts(self, rows: NDArray[np.int64], as_runtime: NDArray[np.bool_]) -> Matrices:
        """Return (B, 2, 3) matrices from the images of `rows` to their crops.

        A crop is the runtime's where `as_runtime` (B,) is true and `aligned` is known, else the dataset's.
        """
        margin = (self.images.shape[1] - self.size) // 2
        middle = np.tile([[1.0, 0, -margin], [0, 1, -margin]], (len(rows), 1, 1))
        if self.aligned is not None:
            middle[as_runtime] = compose(self.aligned[rows[as_runtime]], middle[as_runtime])
        return middle


def training_faces(
    images: NDArray[np.uint8], targets: dict[str, NDArray[np.float32]], config: TrainConfig, quiet: bool = False
) -> TrainingFaces:
    """Join labelled crops (N, 48, 48) and their targets with the unlabelled faces that the configuration adds."""
    aligned = alignments(images, _full_squares(images), quiet) if config.aligned else None
    if not config.unlabelled or not config.partial_share:
        return TrainingFaces(images, SIZE, targets, aligned)
    faces = read_keypoints(config.unlabelled, seed=config.seed, quiet=quiet).part("train")
    shift = np.array([[1.0, 0, _MARGIN], [0, 1, _MARGIN]])
    matrices = compose(np.tile(shift, (len(faces), 1, 1)), alignments(faces.images, faces.squares, quiet))
    canvases = cut(list(faces.images), list(matrices), SIZE + 2 * _MARGIN)[..., 0]
    padded = np.pad(images, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)), "edge")
    return TrainingFaces(
        np.concatenate([padded, canvases]),
        SIZE,
        {head: np.pad(values, ((0, len(faces)), (0, 0))) for head, values in targets.items()},
        None if aligned is None else np.concatenate([aligned, np.tile(np.eye(2, 3), (len(faces), 1, 1))]),
        digest_of(faces),
    )


def _full_squares(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N, 3) squares that frame the full images."""
    side = images.shape[1]
    return np.tile([(side - 1) / 2, (side - 1) / 2, side], (len(images), 1))
