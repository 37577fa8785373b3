"""The one place where crops are cut: box -> square -> crop, and points back into the image.

Coordinates are pixels with the centre of the first pixel at (0, 0), as in Kaggle's keypoint files and in OpenCV.
A crop is described by a 2x3 matrix that takes image coordinates to crop coordinates; training and the runtime cut with
the same functions, so they cannot drift apart.
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
"""What OpenCV gives, by its own types; only uint8 is taken."""

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
"""Names and order of the 15 points, Kaggle's own; "left" is the person's left."""

MIRROR: tuple[int, ...] = tuple(
    KEYPOINTS.index(name.replace("left", "#").replace("right", "left").replace("#", "right")) for name in KEYPOINTS
)
"""For each point the index of the point that takes its place when the picture is reflected."""

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
"""The points that place the emotion crop: not the brows and lips, which move up and down with the very expression that
is to be read, so that an open mouth would shrink the face."""

_ALIGNMENT = np.array(ALIGNMENT)

# a face this many times larger or smaller than its square says it is, is a failed set of points
_MAX_ZOOM = 2.0


@dataclass(frozen=True, slots=True)
class Square:
    """An upright square of an image: centre (x, y) and side, in pixels."""

    x: float
    y: float
    side: float


@dataclass(frozen=True, slots=True)
class Framing:
    """How the training square lies round a detector's box, measured on the training photos.

    `scale` multiplies the box's mean side sqrt(w * h); `dx` and `dy` move the centre, in units of that side.
    """

    scale: float
    dx: float
    dy: float

    def square(self, box: tuple[float, float, float, float]) -> Square:
        """The square round a box (x, y, w, h) in pixels."""
        x, y, w, h = box
        if not (w > 0 and h > 0):
            raise ValueError(f"a box needs a positive width and height, got {w} x {h}")
        side = float(np.sqrt(w * h))
        return Square(x + w / 2 - 0.5 + self.dx * side, y + h / 2 - 0.5 + self.dy * side, self.scale * side)

    def box(self, square: Square, aspect: float = 1.0) -> tuple[float, float, float, float]:
        """The box (x, y, w, h) that lies in a square, `aspect` times as wide as it is high: `square` backwards."""
        side = square.side / self.scale
        width, height = side * np.sqrt(aspect), side / np.sqrt(aspect)
        x, y = square.x + 0.5 - self.dx * side, square.y + 0.5 - self.dy * side
        return float(x - width / 2), float(y - height / 2), float(width), float(height)


def checked_image(image: Picture) -> Image:
    """The array; ValueError unless it is a uint8 image: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not empty."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise ValueError(f"an image must be a uint8 array, got {getattr(image, 'dtype', type(image).__name__)}")
    if image.size == 0 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ValueError(f"an image must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) and not empty, got {image.shape}")
    return np.asarray(image, np.uint8)


def to_gray(image: Picture) -> Image:
    """BGR (H, W, 3), BGRA (H, W, 4), gray (H, W) or (H, W, 1) uint8 -> gray (H, W) uint8.

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
    """The matrix that takes image coordinates to the (size, size) crop of a square."""
    scale = size / square.side
    half = (size - 1) / 2
    return np.array([[scale, 0, half - scale * square.x], [0, scale, half - scale * square.y]], dtype=np.float64)


def similarity(source: Points, target: Points) -> Matrix:
    """The rotation, scale and shift that take (N, 2) source points closest to target, in the least-squares sense.

    Reflections are never returned. Formula: Umeyama, "Least-squares estimation of transformation parameters between
    two point patterns", PAMI 1991. Raises ValueError when the source points coincide.
    """
    a, b = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    mean_a, mean_b = a.sum(axis=0) / len(a), b.sum(axis=0) / len(b)
    a, b = a - mean_a, b - mean_b
    spread = float(np.vdot(a, a))
    if spread < 1e-12:
        raise ValueError("similarity: the source points coincide")
    # in the plane the least-squares rotation and scale are the two numbers of one complex factor
    cos = float(np.vdot(a, b)) / spread
    sin = float(a[:, 0] @ b[:, 1] - a[:, 1] @ b[:, 0]) / spread
    (from_x, from_y), (to_x, to_y) = mean_a.tolist(), mean_b.tolist()
    return np.array([[cos, -sin, to_x - cos * from_x + sin * from_y], [sin, cos, to_y - sin * from_x - cos * from_y]])


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """The matrix that does `inner`, then `outer`."""
    both: Matrix = outer[:, :2] @ inner
    both[:, 2] += outer[:, 2]
    return both


def invert(matrix: Matrix) -> Matrix:
    """The matrix that goes back. Raises ValueError where none does: the matrix takes the plane to a line."""
    (a, b, x), (c, d, y) = matrix.tolist()
    area = a * d - b * c
    if area == 0:
        raise ValueError("invert: the matrix takes the plane to a line")
    return np.array([[d / area, -b / area, (b * y - d * x) / area], [-c / area, a / area, (c * x - a * y) / area]])


def transform(points: Points, matrix: Matrix) -> Points:
    """(..., 2) points through a matrix, float32."""
    moved = np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return moved.astype(np.float32)


def interocular(points: Points) -> NDArray[np.float64]:
    """(N,) distances between the eye centres of (N, 15, 2) points; NaN where one is missing."""
    left, right = KEYPOINTS.index("left_eye_center"), KEYPOINTS.index("right_eye_center")
    return np.asarray(np.linalg.norm(points[:, left].astype(np.float64) - points[:, right], axis=1))


def block_means(image: Image, shrink: int) -> Image:
    """Each pixel the mean of a block of (shrink, shrink); what is left over at the right and below is cut off.

    A side shorter than a block becomes one pixel.
    """
    columns, rows = (max(1, side // shrink) for side in (image.shape[1], image.shape[0]))
    blocks = image[: rows * shrink, : columns * shrink]
    return np.asarray(cv2.resize(blocks, (columns, rows), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def warp(gray: Image, matrix: Matrix, size: int) -> Image:
    """Cut the (size, size) crop that `matrix` describes out of a gray (H, W) image; the border is replicated.

    A face much larger than the crop is averaged down first: bilinear sampling alone would skip pixels and alias.
    """
    height, width = gray.shape
    shrink = max(1, int(1 / max(zoom_of(matrix), 1e-6)))
    # only the part that the crop shows: OpenCV's warp refuses an image of more than 32,766 pixels a side
    to_x, to_y = invert(matrix).tolist()
    x0, x1 = _range(to_x, size, shrink, width)
    y0, y1 = _range(to_y, size, shrink, height)
    gray = gray[y0:y1, x0:x1]
    matrix = compose(matrix, np.array([[1, 0, x0], [0, 1, y0]], dtype=np.float64))
    if 2 <= shrink <= min(gray.shape):
        gray = block_means(gray, shrink)
        # centre of a block of `shrink` pixels -> centre of the pixel that replaces it
        offset = (shrink - 1) / 2
        matrix = compose(matrix, np.array([[shrink, 0, offset], [0, shrink, offset]], dtype=np.float64))
    crop = cv2.warpAffine(gray, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(crop, dtype=np.uint8)


def _range(row: list[float], size: int, margin: int, longest: int) -> tuple[int, int]:
    """The first pixel and the one after the last that a crop shows, along the side of an image that `longest` counts.

    `row` is that side's row of the matrix from crop to image.
    """
    along, across, start = row
    ends = [start + along * column + across * line for column in (-1, size) for line in (-1, size)]
    first = math.floor(min(max(min(ends) - margin, 0), longest - 1))
    return first, math.ceil(min(max(max(ends) + margin + 1, first + 1), longest))


def cut(grays: list[Image], placed: list[Matrix], size: int) -> NDArray[np.uint8]:
    """The uint8 (N, size, size, 1) crops that (2, 3) matrices from image to crop pixels describe, a gray image each."""
    batch = np.empty((len(grays), size, size, 1), np.uint8)
    for row, gray, matrix in zip(batch, grays, placed, strict=True):
        row[:, :, 0] = warp(gray, matrix, size)
    return batch


def zoom_of(matrix: Matrix) -> float:
    """How much larger lengths become, crop pixels per image pixel."""
    (a, b, _), (c, d, _) = matrix.tolist()
    return math.sqrt(abs(a * d - b * c))


def align(points: Points, target: Points, zoom: float) -> Matrix | None:
    """The similarity that takes (15, 2) points to target, by those of ALIGNMENT.

    None where its zoom is far from the expected one: such points are no face's.
    """
    try:
        matrix = similarity(points[_ALIGNMENT], target[_ALIGNMENT])
    except ValueError:
        return None
    return matrix if 1 / _MAX_ZOOM <= zoom_of(matrix) / zoom <= _MAX_ZOOM else None
