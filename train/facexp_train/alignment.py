"""Faces cut the way the runtime cuts them for the emotion network: by the points that the shipped networks find."""

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
from facexp_train.config import TrainConfig
from facexp_train.emotion_data import SIZE
from facexp_train.errors import DataError
from facexp_train.framing import Matrices, compose, square_matrices
from facexp_train.keypoint_data import read_keypoints
from facexp_train.progress import progress_bar
from facexp_train.splits import digest_of

_BATCH = 64
_ROOM = 12
"""Pixels round the crop of an unlabelled face, for the jitter: about what the jitter reaches."""


def alignments(
    images: NDArray[np.uint8],
    squares: NDArray[np.float64],
    quiet: bool = False,
    bundle: Path | None = None,
    precision: str | None = None,
) -> Matrices:
    """(N, 2, 3) matrices from uint8 (N, C, C) images to the emotion network's crops.

    `squares` (N, 3) are centre x, centre y and side of the squares that frame the faces, in pixels. `bundle`: directory
    of the bundle whose keypoint network aligns them, None for the shipped one. `precision`: that of its ONNX file; the
    most exact one where it has no such file, and for None. DataError where that does not run, for want of onnxruntime
    above all.
    """
    try:
        loaded = Bundle.load(bundle)
        spec = loaded.keypoints
        key = f"{precision}.onnx"
        finder = _finder(loaded.path, spec, key) if key in spec.files else exact_finder(loaded.path, spec)
    except FacexpError as error:
        whose = "shipped keypoint network" if bundle is None else f"keypoint network of {bundle}"
        raise DataError(f"faces are aligned by the {whose}: {error}") from error
    alignment = Alignment.of(spec, loaded.emotion)
    framing = square_matrices(squares, spec.size)
    placed: list[NDArray[np.float64]] = []
    with progress_bar(len(images), "aligning", "face", quiet=quiet) as bar:
        for start in range(0, len(images), _BATCH):
            rows = slice(start, start + _BATCH)
            placed += alignment.matrices(finder.find(list(images[rows]), list(framing[rows])))
            bar.update(len(images[rows]))
    return np.stack(placed)


def exact_finder(directory: Path, spec: KeypointsSpec) -> KeypointFinder:
    """The keypoint network of a bundle's directory, in its most exact ONNX file; BundleError, DeviceError."""
    return _finder(directory, spec, spec.exact() or "float32.onnx")


def _finder(directory: Path, spec: KeypointsSpec, key: str) -> KeypointFinder:
    return KeypointFinder(Session(read_model(directory, spec, key), spec, key), spec)


def aligned_crops(
    images: NDArray[np.uint8], quiet: bool = False, bundle: Path | None = None, precision: str | None = None
) -> NDArray[np.uint8]:
    """uint8 (N, 48, 48) crops as the runtime cuts them, of images (N, S, S) that a face fills; see `alignments`."""
    return cut(list(images), list(alignments(images, _whole(images), quiet, bundle, precision)), SIZE)[..., 0]


@dataclass(frozen=True, slots=True)
class Shown:
    """The N faces that an emotion network is trained on.

    Attributes:
        images: uint8 (N, C, C), the dataset's own crop of `size` pixels in the middle of each.
        size: side of a crop.
        targets: for each head a distribution (N, C), all zero where a face has no label.
        aligned: (N, 2, 3) matrices from the dataset's crop to the runtime's; None where these are not wanted.
        unlabelled: digest of the data that the unlabelled faces are of, "" where there are none.
    """

    images: NDArray[np.uint8]
    size: int
    targets: dict[str, NDArray[np.float32]]
    aligned: Matrices | None = None
    unlabelled: str = ""

    def cuts(self, rows: NDArray[np.int64], as_runtime: NDArray[np.bool_]) -> Matrices:
        """(B, 2, 3) matrices from images to crops, the runtime's where `as_runtime` says so."""
        room = (self.images.shape[1] - self.size) // 2
        middle = np.tile([[1.0, 0, -room], [0, 1, -room]], (len(rows), 1, 1))
        if self.aligned is not None:
            middle[as_runtime] = compose(self.aligned[rows[as_runtime]], middle[as_runtime])
        return middle


def shown(
    images: NDArray[np.uint8], targets: dict[str, NDArray[np.float32]], config: TrainConfig, quiet: bool = False
) -> Shown:
    """Labelled crops (N, 48, 48) with their targets, and the unlabelled faces that the configuration adds."""
    aligned = alignments(images, _whole(images), quiet) if config.aligned else None
    if not config.unlabelled or not config.partial_share:
        return Shown(images, SIZE, targets, aligned)
    faces = read_keypoints(config.unlabelled, seed=config.seed, quiet=quiet).part("train")
    wider = np.array([[1.0, 0, _ROOM], [0, 1, _ROOM]])
    matrices = compose(np.tile(wider, (len(faces), 1, 1)), alignments(faces.images, faces.squares, quiet))
    canvases = cut(list(faces.images), list(matrices), SIZE + 2 * _ROOM)[..., 0]
    padded = np.pad(images, ((0, 0), (_ROOM, _ROOM), (_ROOM, _ROOM)), "edge")
    return Shown(
        np.concatenate([padded, canvases]),
        SIZE,
        {head: np.pad(values, ((0, len(faces)), (0, 0))) for head, values in targets.items()},
        None if aligned is None else np.concatenate([aligned, np.tile(np.eye(2, 3), (len(faces), 1, 1))]),
        digest_of(faces),
    )


def _whole(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    side = images.shape[1]
    return np.tile([(side - 1) / 2, (side - 1) / 2, side], (len(images), 1))
