"""Crops show the part of the image that they should, and points map back to the pixels they came from."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facexp.geometry import (
    KEYPOINTS,
    MIRROR,
    Framing,
    Square,
    compose,
    invert,
    similarity,
    square_matrix,
    to_gray,
    transform,
    warp,
)

SQUARES = (
    Square(100.0, 80.0, 96.0),
    Square(313.3, 201.7, 37.9),
    Square(-20.5, 40.25, 150.0),
    Square(400.0, 300.0, 801.3),
)


def dot(size: tuple[int, int], x: float, y: float, sigma: float) -> NDArray[np.uint8]:
    """A bright blurred dot on black."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    bright = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return bright.round().astype(np.uint8)


def centroid(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    rows, columns = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    mass = image.astype(np.float64)
    return np.array([(columns * mass).sum(), (rows * mass).sum()]) / mass.sum()


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("size", [48, 96])
def test_points_return_to_where_they_came_from(square: Square, size: int) -> None:
    # guards: matrix and inverse belong together
    points = np.random.default_rng(0).uniform(-100, 900, (15, 2)).astype(np.float32)
    matrix = square_matrix(square, size)
    assert np.abs(transform(transform(points, matrix), invert(matrix)) - points).max() < 0.01


def test_a_singular_matrix_is_refused() -> None:
    """Guards against a division by zero that would continue as infinite coordinates."""
    with pytest.raises(ValueError, match="singular"):
        invert(np.array([[2.0, 1.0, 5.0], [4.0, 2.0, 7.0]]))


@pytest.mark.parametrize("square", [Square(-400.0, 30.0, 60.0), Square(30.0, 900.0, 60.0), Square(20.0, 20.0, 150.0)])
def test_the_border_is_repeated_outside_the_image(square: Square) -> None:
    """Guards the part of an image that is cut out before warping: never empty, on each side."""
    image = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
    padded = cv2.copyMakeBorder(image, 1000, 1000, 1000, 1000, cv2.BORDER_REPLICATE)
    matrix = square_matrix(square, 96)
    moved = square_matrix(Square(square.x + 1000, square.y + 1000, square.side), 96)
    assert np.abs(warp(image, matrix, 96).astype(int) - warp(padded, moved, 96)).max() <= 1


def test_the_corners_of_a_square_are_the_borders_of_the_crop() -> None:
    # guards: the half pixel between "corner of the first pixel" and "its centre"
    matrix = square_matrix(Square(50.0, 60.0, 20.0), 96)
    corners = np.array([[40, 50], [60, 70], [50, 60]], np.float32)
    assert np.allclose(transform(corners, matrix), [[-0.5, -0.5], [95.5, 95.5], [47.5, 47.5]])


@pytest.mark.parametrize("side", [40.0, 96.0, 150.0, 500.0, 1111.0, 2300.0])
@pytest.mark.parametrize("where", [(0.0, 0.0), (0.13, -0.08)])
def test_content_lands_where_its_coordinates_say(side: float, where: tuple[float, float]) -> None:
    # guards: the pixels follow the same matrix as the points, also where a large face is averaged down first
    x, y = 1300.4, 1250.9
    image = dot((2600, 2700), x, y, side / 16)
    matrix = square_matrix(Square(x + where[0] * side, y + where[1] * side, side), 96)
    found = centroid(warp(image, matrix, 96))
    # OpenCV samples on a grid of 1/32 of a source pixel, so a whole crop may be 1/64 off
    assert np.abs(found - transform(np.array([[x, y]], np.float32), matrix)[0]).max() < max(1.0, 96 / side) / 64
    assert np.abs(transform(found, invert(matrix)) - [x, y]).max() < max(1.0, side / 96) / 64


def test_content_follows_a_rotated_crop() -> None:
    # guards: rotation turns the picture the same way as the points
    turn = np.deg2rad(30)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * 0.31
    middle = np.array([301.5, 222.25])
    matrix = np.hstack([rotation, (np.array([40.0, 52.0]) - rotation @ middle)[:, None]])
    found = centroid(warp(dot((500, 640), 301.5, 222.25, 16.0), matrix, 96))
    assert np.abs(found - [40.0, 52.0]).max() < 0.01


def test_a_fine_pattern_is_averaged_not_sampled() -> None:
    # guards: without averaging, stripes of single pixels would alias into a flat black or white crop
    stripes = np.zeros((1920, 1920), np.uint8)
    stripes[:, ::2] = 255
    crop = warp(stripes, square_matrix(Square(960.0, 960.0, 1920.0), 96), 96)
    assert np.abs(crop.astype(int) - 127).max() <= 2


@pytest.mark.parametrize("square", [Square(-300.0, -300.0, 50.0), Square(5.0, 5.0, 4000.0), Square(9.5, 9.5, 0.5)])
def test_a_square_outside_or_far_larger_than_the_image_still_gives_a_crop(square: Square) -> None:
    # guards: a detector's box may reach over the border
    crop = warp(np.full((20, 20), 77, np.uint8), square_matrix(square, 96), 96)
    assert crop.shape == (96, 96)
    assert np.all(crop == 77)


def test_similarity_recovers_a_known_transform() -> None:
    # guards: rotation's direction, scale and shift, in the convention of `transform`
    points = np.random.default_rng(1).uniform(0, 96, (15, 2)).astype(np.float32)
    turn, scale = np.deg2rad(-23.0), 0.47
    known = np.array(
        [[scale * np.cos(turn), -scale * np.sin(turn), 12.5], [scale * np.sin(turn), scale * np.cos(turn), -7.25]]
    )
    assert np.abs(similarity(points, transform(points, known)) - known).max() < 1e-5


def test_similarity_never_reflects_and_names_coinciding_points() -> None:
    # guards: a mirrored target must not turn a face inside out; one point is not a face
    points = np.random.default_rng(2).uniform(0, 96, (15, 2)).astype(np.float32)
    assert np.linalg.det(similarity(points, points * np.float32([-1, 1]))[:, :2]) > 0
    with pytest.raises(ValueError, match="coincide"):
        similarity(np.ones((15, 2), np.float32), points)


def test_compose_applies_the_inner_transform_first() -> None:
    # guards: the emotion crop is cut through two matrices
    rng = np.random.default_rng(3)
    inner, outer = rng.uniform(-1, 1, (2, 2, 3))
    points = rng.uniform(0, 50, (4, 2)).astype(np.float32)
    assert np.allclose(transform(points, compose(outer, inner)), transform(transform(points, inner), outer), atol=1e-4)


def test_mirror_swaps_the_sides() -> None:
    # guards: a flipped training face keeps the person's left and right apart
    assert sorted(MIRROR) == list(range(15))
    for index, other in enumerate(MIRROR):
        assert MIRROR[other] == index
        swapped = KEYPOINTS[index]
        swapped = swapped.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")
        assert KEYPOINTS[other] == swapped
    assert {KEYPOINTS[i] for i, j in enumerate(MIRROR) if i == j} == {
        "nose_tip",
        "mouth_center_top_lip",
        "mouth_center_bottom_lip",
    }


def test_framing_scales_and_moves_in_units_of_the_mean_side() -> None:
    # guards: the runtime applies what was measured on the training photos
    square = Framing(1.2, 0.1, -0.05).square((10.0, 20.0, 40.0, 90.0))
    assert square == Square(pytest.approx(35.5), pytest.approx(61.5), pytest.approx(72.0))  # mean side 60
    with pytest.raises(ValueError, match="positive width"):
        Framing(1.0, 0.0, 0.0).square((0.0, 0.0, 0.0, 5.0))
    assert Framing(1.2, 0.1, -0.05).box(square, 40 / 90) == pytest.approx((10.0, 20.0, 40.0, 90.0))


def test_gray_is_opencvs_gray_of_any_kind_of_image() -> None:
    # guards: the one place where colour becomes gray, and what it refuses
    bgr = np.random.default_rng(4).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    gray = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    assert np.array_equal(to_gray(bgr), gray)
    assert np.array_equal(to_gray(np.dstack([bgr, bgr[:, :, :1]])), gray)
    assert np.array_equal(to_gray(gray), gray)
    assert np.array_equal(to_gray(gray[:, :, None]), gray)
    for wrong in (bgr.astype(np.float32), bgr[:0], bgr[:, :, :2], bgr[None], "photo.jpg"):
        with pytest.raises(ValueError, match="an image must"):
            to_gray(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("zoom", [1.0, 0.3])
def test_a_panorama_wider_than_opencv_can_warp_is_cut(zoom: float) -> None:
    # guards: OpenCV refuses to warp an image with a side above 32,766 pixels
    wide = np.zeros((400, 40_000), np.uint8)
    wide[198:203, 35_098:35_103] = 255
    crop = warp(wide, square_matrix(Square(35_100, 200, 96 / zoom), 96), 96)
    rows, columns = np.mgrid[:96, :96]
    assert (crop * columns).sum() / crop.sum() == pytest.approx(47.5, abs=0.1)
    assert (crop * rows).sum() / crop.sum() == pytest.approx(47.5, abs=0.1)
