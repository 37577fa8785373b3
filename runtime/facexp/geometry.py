"""Geometry of face crops: box -> square -> crop, and points back into the image.

Coordinates are pixels with the centre of the first pixel at (0, 0), as in Kaggle's keypoint files and in OpenCV.
A crop is described by a 2x3 affine matrix that maps image coordinates to crop coordinates. Training and the runtime use
the same functions, so that their crops cannot differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Points = NDArray[np.float32]
Image = NDArray[np.uint8]
Picture = NDArray[np.integer[Any] | np.floating[Any]]
"""An image as OpenCV's type annotations describe it; at run time only uint8 is accepted."""

KEYPOINTS: tuple[str, ...] = (
    "left_eye_center",
    "right_eye_center",
    "left_eye_inner_corner",
    "left_eye_outer_corner",
    "right_eye_inner_corner",
    "right_eye_outer_corner",
    "left_eyebrow_inner_end",
    "left_eyebrow_outer_end",
    "right_eyebrow_inner_end",
    "right_eyebrow_outer_end",
    "nose_tip",
    "mouth_left_corner",
    "mouth_right_corner",
    "mouth_center_top_lip",
    "mouth_center_bottom_lip",
)
"""Names and order of the 15 keypoints, as in Kaggle's data; "left" is the person's left."""

MIRROR: tuple[int, ...] = tuple(
    KEYPOINTS.index(name.replace("left", "#").replace("right", "left").replace("#", "right")) for name in KEYPOINTS
)
"""For each keypoint, the index of the keypoint that takes its place when the picture is mirrored."""

ALIGNMENT: tuple[int, ...] = tuple(
    KEYPOINTS.index(name)
    for name in (
        "left_eye_center",
        "right_eye_center",
        "left_eye_inner_corner",
        "left_eye_outer_corner",
        "right_eye_inner_corner",
        "right_eye_outer_corner",
        "nose_tip",
        "mouth_left_corner",
        "mouth_right_corner",
    )
)
"""The indices of the keypoints by which the emotion crop is aligned. Brows and lips are left out: they move up and down
with the expression, so that an open mouth, for example, would shrink the face in the crop."""

_ALIGNMENT = np.array(ALIGNMENT)

# points that make the face this many times larger or smaller than expected are a failed prediction
_MAX_ZOOM = 2.0


@dataclass(frozen=True, slots=True)
class Square:
    """An upright square of an image: centre (x, y) and side, in pixels."""

    x: float
    y: float
    side: float


@dataclass(frozen=True, slots=True)
class Framing:
    """The position of the crop's square relative to the detector's box, measured on the training photos.

    `scale` is the square's side over the box's mean side sqrt(w * h); `dx` and `dy` are the offset of its centre from
    the box's, in units of that mean side.
    """

    scale: float
    dx: float
    dy: float

    def square(self, box: tuple[float, float, float, float]) -> Square:
        """The square round a box (x, y, w, h) in pixels. Raises ValueError unless w and h are positive."""
        x, y, w, h = box
        if not (w > 0 and h > 0):
            raise ValueError(f"a box needs a positive width and height, got {w} x {h}")
        side = float(np.sqrt(w * h))
        return Square(x + w / 2 - 0.5 + self.dx * side, y + h / 2 - 0.5 + self.dy * side, self.scale * side)

    def box(self, square: Square, aspect: float = 1.0) -> tuple[float, float, float, float]:
        """The box (x, y, w, h), `aspect` times as wide as high, that has this square: the inverse of `square`."""
        side = square.side / self.scale
        width, height = side * np.sqrt(aspect), side / np.sqrt(aspect)
        x, y = square.x + 0.5 - self.dx * side, square.y + 0.5 - self.dy * side
        return float(x - width / 2), float(y - height / 2), float(width), float(height)


def checked_image(image: Picture) -> Image:
    """The array, if it is a non-empty uint8 image (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); else raise ValueError."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise ValueError(f"an image must be a uint8 array, got {getattr(image, 'dtype', type(image).__name__)}")
    if image.size == 0 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ValueError(f"an image must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) and not empty, got {image.shape}")
    return np.asarray(image, np.uint8)


def to_gray(image: Picture) -> Image:
    """Convert BGR (H, W, 3), BGRA (H, W, 4), gray (H, W) or (H, W, 1) uint8 to gray (H, W) uint8.

    Raises ValueError for another dtype or shape, or for an empty image.
    """
    checked = checked_image(image)
    if checked.ndim == 2:
        return checked
    if checked.shape[2] == 1:
        return checked[:, :, 0]
    code = cv2.COLOR_BGR2GRAY if checked.shape[2] == 3 else cv2.COLOR_BGRA2GRAY
    return np.asarray(cv2.cvtColor(checked, code), dtype=np.uint8)


def square_matrix(square: Square, size: int) -> Matrix:
    """The (2, 3) matrix that maps image coordinates to the (size, size) crop of a square."""
    scale = size / square.side
    half = (size - 1) / 2
    return np.array([[scale, 0, half - scale * square.x], [0, scale, half - scale * square.y]], dtype=np.float64)


def similarity(source: Points, target: Points) -> Matrix:
    """The (2, 3) similarity transform that maps (N, 2) source points closest to the target, by least squares.

    It consists of a rotation, a uniform scale and a shift, and never reflects. Formula: Umeyama, "Least-squares
    estimation of transformation parameters between two point patterns", PAMI 1991. Raises ValueError when the source
    points coincide.
    """
    a, b = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    mean_a, mean_b = a.sum(axis=0) / len(a), b.sum(axis=0) / len(b)
    a, b = a - mean_a, b - mean_b
    spread = float(np.vdot(a, a))
    if spread < 1e-12:
        raise ValueError("similarity: the source points coincide")
    # in two dimensions, rotation and scale are the real and imaginary part of one complex factor
    cos = float(np.vdot(a, b)) / spread
    sin = float(a[:, 0] @ b[:, 1] - a[:, 1] @ b[:, 0]) / spread
    (from_x, from_y), (to_x, to_y) = mean_a.tolist(), mean_b.tolist()
    return np.array([[cos, -sin, to_x - cos * from_x + sin * from_y], [sin, cos, to_y - sin * from_x - cos * from_y]])


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """The (2, 3) matrix that applies `inner`, then `outer`."""
    both: Matrix = outer[:, :2] @ inner
    both[:, 2] += outer[:, 2]
    return both


def invert(matrix: Matrix) -> Matrix:
    """The inverse of a (2, 3) affine matrix, also (2, 3). Raises ValueError where the matrix is singular."""
    (a, b, x), (c, d, y) = matrix.tolist()
    det = a * d - b * c
    if det == 0:
        raise ValueError("invert: the matrix is singular")
    return np.array([[d / det, -b / det, (b * y - d * x) / det], [-c / det, a / det, (c * x - a * y) / det]])


def transform(points: Points, matrix: Matrix) -> Points:
    """Apply a (2, 3) matrix to (..., 2) points; the result is float32 of the same shape."""
    moved = np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return moved.astype(np.float32)


def interocular(points: Points) -> NDArray[np.float64]:
    """The (N,) distances between the eye centres of (N, 15, 2) points; NaN where an eye centre is missing."""
    left, right = KEYPOINTS.index("left_eye_center"), KEYPOINTS.index("right_eye_center")
    return np.asarray(np.linalg.norm(points[:, left].astype(np.float64) - points[:, right], axis=1))


def block_means(image: Image, shrink: int) -> Image:
    """Shrink an image; each pixel becomes the mean of a (shrink, shrink) block.

    Rows and columns at the bottom and right that do not fill a block are dropped. A side shorter than a block becomes
    one pixel.
    """
    columns, rows = (max(1, side // shrink) for side in (image.shape[1], image.shape[0]))
    blocks = image[: rows * shrink, : columns * shrink]
    return np.asarray(cv2.resize(blocks, (columns, rows), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def warp(gray: Image, matrix: Matrix, size: int) -> Image:
    """Cut the (size, size) crop that `matrix` describes out of a gray (H, W) image, replicating the border.

    A face much larger than the crop is first reduced by averaging, because bilinear sampling alone would skip pixels
    and cause aliasing.
    """
    height, width = gray.shape
    shrink = max(1, int(1 / max(zoom_of(matrix), 1e-6)))
    # only the part that the crop shows, because OpenCV's warp refuses images of more than 32,766 pixels a side
    to_x, to_y = invert(matrix).tolist()
    x0, x1 = _range(to_x, size, shrink, width)
    y0, y1 = _range(to_y, size, shrink, height)
    gray = gray[y0:y1, x0:x1]
    matrix = compose(matrix, np.array([[1, 0, x0], [0, 1, y0]], dtype=np.float64))
    if 2 <= shrink <= min(gray.shape):
        gray = block_means(gray, shrink)
        # maps the centre of a pixel of the reduced image to the centre of its block of pixels
        offset = (shrink - 1) / 2
        matrix = compose(matrix, np.array([[shrink, 0, offset], [0, shrink, offset]], dtype=np.float64))
    crop = cv2.warpAffine(gray, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(crop, dtype=np.uint8)


def _range(coefficients: list[float], size: int, margin: int, length: int) -> tuple[int, int]:
    """The half-open range of pixels that a (size, size) crop shows along one axis of an image of `length` pixels.

    `coefficients` is that axis' row of the matrix from crop to image. The range is extended by `margin` pixels at both
    ends, limited to the image, and never empty.
    """
    per_column, per_row, start = coefficients
    ends = [start + per_column * column + per_row * row for column in (-1, size) for row in (-1, size)]
    first = math.floor(min(max(min(ends) - margin, 0), length - 1))
    return first, math.ceil(min(max(max(ends) + margin + 1, first + 1), length))


def cut(grays: list[Image], matrices: list[Matrix], size: int) -> NDArray[np.uint8]:
    """Cut one crop out of each of N gray (H, W) images; uint8 (N, size, size, 1).

    `matrices` holds the (2, 3) matrix from image to crop coordinates for each image.
    """
    batch = np.empty((len(grays), size, size, 1), np.uint8)
    for row, gray, matrix in zip(batch, grays, matrices, strict=True):
        row[:, :, 0] = warp(gray, matrix, size)
    return batch


def zoom_of(matrix: Matrix) -> float:
    """The scale factor of a (2, 3) matrix: crop pixels per image pixel."""
    (a, b, _), (c, d, _) = matrix.tolist()
    return math.sqrt(abs(a * d - b * c))


def align(points: Points, target: Points, zoom: float) -> Matrix | None:
    """The similarity transform that maps the ALIGNMENT points of (15, 2) points to those of `target`.

    None where the points coincide, or where the scale differs from the expected `zoom` by more than a factor of two:
    such points do not belong to a face.
    """
    try:
        matrix = similarity(points[_ALIGNMENT], target[_ALIGNMENT])
    except ValueError:
        return None
    return matrix if 1 / _MAX_ZOOM <= zoom_of(matrix) / zoom <= _MAX_ZOOM else None
