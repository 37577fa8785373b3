"""Augmentation: points follow their pixels, reflections swap the sides, and every change can be switched off."""

import dataclasses

import cv2
import numpy as np
import pytest

from facexp import geometry
from facexp.geometry import KEYPOINTS
from facexp_train.augmentation import augment, framing
from facexp_train.config import Augmentation

OFF = Augmentation(flip=0, rotation=0, scale=0, shift=0, brightness=0, contrast=0, erasing=0)
LEFT, RIGHT = KEYPOINTS.index("left_eye_center"), KEYPOINTS.index("right_eye_center")


def some_points(count: int, size: int = 96) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.uniform(0.25 * size, 0.75 * size, (count, len(KEYPOINTS), 2)).astype(np.float32)


def matrices(augmentation: Augmentation, count: int = 4, size: int = 96) -> np.ndarray:
    return framing.jitter_matrices(np.random.default_rng(1), count, size, augmentation)


def replace(augmentation: Augmentation, **changes: float) -> Augmentation:
    return dataclasses.replace(augmentation, **changes)


def test_horizontal_flip_swaps_left_and_right() -> None:
    points = some_points(4)
    moved = framing.move_points(points, matrices(replace(OFF, flip=1)))
    assert moved[:, LEFT, 0] == pytest.approx(95 - points[:, RIGHT, 0], abs=1e-3)
    assert moved[:, LEFT, 1] == pytest.approx(points[:, RIGHT, 1], abs=1e-3)
    nose = KEYPOINTS.index("nose_tip")
    assert moved[:, nose, 0] == pytest.approx(95 - points[:, nose, 0], abs=1e-3)


def test_vertical_flip_is_a_reflection_too() -> None:
    points = some_points(4)
    moved = framing.move_points(points, matrices(replace(OFF, vertical_flip=1)))
    assert moved[:, LEFT, 1] == pytest.approx(95 - points[:, RIGHT, 1], abs=1e-3)


def test_both_flips_are_a_half_turn_and_keep_the_sides() -> None:
    points = some_points(4)
    moved = framing.move_points(points, matrices(replace(OFF, flip=1, vertical_flip=1)))
    assert moved == pytest.approx(95 - points, abs=1e-3)


def test_missing_points_stay_missing_under_the_mirrored_name() -> None:
    points = some_points(2)
    points[:, LEFT] = np.nan
    moved = framing.move_points(points, matrices(replace(OFF, flip=1), 2))
    assert np.isnan(moved[:, RIGHT]).all()
    assert np.isfinite(moved[:, LEFT]).all()


def test_points_follow_their_pixels() -> None:
    augmentation = replace(OFF, flip=0.5, vertical_flip=0.3, rotation=25, scale=0.2, shift=0.05)
    count, canvas = 24, 160
    rng = np.random.default_rng(2)
    spots = rng.uniform(60, 100, (count, 2))
    ys, xs = np.mgrid[:canvas, :canvas]
    images = np.stack([255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 18) for x, y in spots]).astype(np.uint8)
    points = np.repeat(spots[:, None], len(KEYPOINTS), axis=1).astype(np.float32)
    squares = np.tile([79.5, 79.5, 96.0], (count, 1))
    chain = framing.compose(matrices(augmentation, count), framing.square_matrices(squares, 96))
    moved = framing.move_points(points, chain)[:, 0]
    crops = np.asarray(augment.warp_batch(images, chain, 96))[..., 0].astype(np.float64)
    ys, xs = np.mgrid[:96, :96]
    mass = crops.sum(axis=(1, 2))
    centre = np.stack([(crops * xs).sum(axis=(1, 2)) / mass, (crops * ys).sum(axis=(1, 2)) / mass], axis=1)
    inside = ((moved > 15) & (moved < 80)).all(axis=1)
    assert inside.sum() > 10
    assert centre[inside] == pytest.approx(moved[inside], abs=0.1)


def test_training_cuts_the_same_crop_as_the_runtime() -> None:
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (6, 150, 150), dtype=np.uint8)
    images = np.stack([cv2.normalize(cv2.GaussianBlur(n, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX) for n in noise])
    chain = framing.compose(
        matrices(replace(OFF, rotation=20, scale=0.1, shift=0.1), 6),
        framing.square_matrices(np.tile([74.0, 75.0, 90.0], (6, 1)), 96),
    )
    training = np.asarray(augment.warp_batch(images, chain, 96))[..., 0]
    runtime = np.stack([geometry.warp(image, matrix, 96) for image, matrix in zip(images, chain, strict=True)])
    # OpenCV rounds to whole gray levels and places samples at 1/32 px: half a pixel of shift would give a mean above 5
    assert np.abs(training - runtime).mean() < 0.5
    assert np.abs(training - runtime).max() < 3


def test_a_canvas_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="48 px are smaller than the 96 px"):
        augment.warp_batch(np.zeros((1, 48, 48), np.uint8), matrices(OFF, 1), 96)


def test_everything_off_changes_nothing() -> None:
    images = np.random.default_rng(4).integers(0, 256, (3, 48, 48), dtype=np.uint8)
    rng = np.random.default_rng(0)
    crops = augment.warp_batch(images, matrices(OFF, 3, 48), 48)
    crops = np.asarray(augment.to_uint8(augment.change_pixels(crops, rng, OFF)))
    assert (crops[..., 0] == images).all()


@pytest.mark.parametrize("change", ["brightness", "contrast", "gamma", "noise", "blur", "erasing"])
def test_each_pixel_change_has_an_effect_on_its_own(change: str) -> None:
    images = np.random.default_rng(4).integers(60, 190, (8, 48, 48, 1)).astype(np.float32)
    changed = np.asarray(augment.change_pixels(images, np.random.default_rng(0), replace(OFF, **{change: 0.9})))
    assert changed.shape == images.shape
    assert np.abs(changed - images).mean() > 1
    # a change is drawn for each face, not once for the batch
    assert len({round(float(np.abs(c - i).mean()), 3) for c, i in zip(changed, images, strict=True)}) > 2


def test_shrink_and_jpeg_keep_the_brightness_and_lose_detail() -> None:
    # guards that shrink and jpeg each change every selected crop, and only its detail
    rng = np.random.default_rng(2)
    smooth = np.linspace(40, 200, 96)[None, :, None] * np.ones((4, 1, 96))
    crops = np.clip(smooth + 40 * (np.indices((96, 96)).sum(0) % 2)[None], 0, 255).astype(np.uint8)[..., None]
    assert augment.degrade(crops, rng, OFF) is crops
    for changes in ({"shrink": 1.0}, {"jpeg": 1.0}):
        degraded = augment.degrade(crops, np.random.default_rng(3), replace(OFF, **changes))
        assert degraded.shape == crops.shape
        assert degraded.dtype == np.uint8
        assert (degraded != crops).any(axis=(1, 2, 3)).all()
        assert degraded.mean(axis=(1, 2, 3)) == pytest.approx(crops.mean(axis=(1, 2, 3)), abs=2)
    shrunk = augment.degrade(crops, np.random.default_rng(3), replace(OFF, shrink=1.0))
    assert np.diff(shrunk.astype(int), axis=1).std() < 0.7 * np.diff(crops.astype(int), axis=1).std()


def test_the_configured_share_of_pictures_is_degraded() -> None:
    # guards that the probability applies to each picture, not to the batch
    crops = np.random.default_rng(0).integers(0, 256, (400, 32, 32, 1)).astype(np.uint8)
    changed = augment.degrade(crops, np.random.default_rng(1), replace(OFF, jpeg=0.25))
    assert (changed != crops).any(axis=(1, 2, 3)).mean() == pytest.approx(0.25, abs=0.07)
