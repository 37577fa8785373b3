"""Near copies are found by their detail, whatever their crop, size, light and direction."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from drawn import smooth
from facexp_train.data import copies


def brighter(image: np.ndarray) -> np.ndarray:
    return np.clip(image.astype(float) * 0.7 + 40, 0, 255).astype(np.uint8)


def recompressed(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_GRAYSCALE)


def stamped(image: np.ndarray) -> np.ndarray:
    return cv2.putText(image.copy(), "(c)", (14, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.3, 255)


@pytest.mark.parametrize("change", [brighter, recompressed, stamped, np.fliplr])
def test_a_changed_copy_is_found(change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Guards that a copy is recognised after each of the changes that stock photos go through."""
    images = smooth(40)
    both = np.concatenate([images, np.array([change(image) for image in images])])
    pairs = {(int(i), int(j)) for i, j in copies.near_copies(both)}
    assert pairs >= {(i, i + 40) for i in range(40)}
    assert len(pairs) <= 42  # different faces are not joined


@pytest.mark.parametrize(("dx", "dy", "side"), [(5, 0, 48), (-3, 4, 48), (1, -2, 42), (2, 1, 54), (0, 0, 55)])
def test_another_crop_of_a_photo_is_found(dx: int, dy: int, side: int) -> None:
    """Guards moved, larger and smaller copies, also mirrored: FER2013 has thousands of them."""
    large, small = smooth(40, size=320)[:, 120:200, 120:200], np.tile(smooth(40, size=40, seed=1), (1, 2, 2))
    photos = (large * 0.75 + small * 0.25).astype(np.uint8)
    start = [40 - side // 2 + move for move in (dy, dx)]
    others = [photo[start[0] : start[0] + side, start[1] : start[1] + side] for photo in photos]
    others = [cv2.resize(other, (48, 48), interpolation=cv2.INTER_AREA) for other in others]
    images = photos[:, 16:64, 16:64]
    for changed in (others, [np.fliplr(other) for other in others]):
        pairs = copies.near_copies(np.concatenate([images, np.array(changed)]))
        assert (pairs[:, 1] - pairs[:, 0] == 40).all()  # different faces are not joined
        assert len(pairs) >= 34


def test_different_faces_in_the_same_light_are_no_copies() -> None:
    """Guards faces that are dark on one side: their coarse structure alone is the same."""
    images = (np.linspace(20, 200, 48) + smooth(40) * 0.2).astype(np.uint8)
    assert np.corrcoef(images.reshape(40, -1)).min() > 0.9
    assert len(copies.near_copies(images)) == 0


def test_flat_images_are_no_copies() -> None:
    """Guards that flat images, whose perceptual hashes are all alike, are not near copies of each other."""
    flat = np.stack([np.full((48, 48), value, np.uint8) for value in (0, 9, 200)])
    assert len(copies.near_copies(flat)) == 0


def test_copies_are_found_across_blocks_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the block arithmetic, and images that are not 48 pixels wide."""
    monkeypatch.setattr(copies, "_BLOCK_ROWS", 7)
    images = smooth(30, size=96)
    images[29] = brighter(images[9])
    images[18] = np.fliplr(images[16])
    assert sorted(map(tuple, copies.near_copies(images).tolist())) == [(9, 29), (16, 18)]


def test_matches_are_those_of_opencv() -> None:
    """Guards the correlations: each pair's largest, over all sides and positions, as matchTemplate finds it."""
    rng = np.random.default_rng(0)
    details = rng.normal(0, 9, (5, 24, 24)).astype(np.float32)
    patches = [cv2.resize(detail[3:21, 2:20], (18, 18)) for detail in details]
    which, rows = np.array([0, 0, 4, 2, 2]), np.array([0, 3, 4, 1, 2])
    sides = (18, 16, 21)
    found = copies._best_matches(patches, which, copies._searchable(details, sides), rows)
    expected = [
        max(
            cv2.matchTemplate(details[row], cv2.resize(patches[patch], (side, side)), cv2.TM_CCOEFF_NORMED).max()
            for side in sides
        )
        for patch, row in zip(which, rows, strict=True)
    ]
    assert found == pytest.approx(expected, abs=1e-5)
    assert (found > 0.99).tolist() == [True, False, True, False, True]
