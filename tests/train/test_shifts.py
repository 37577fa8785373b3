"""Fixed changes of faces: each does what its name says."""

import numpy as np
import pytest

from facexp_train.evaluation.shifts import SHIFTS, shifted


def faces() -> np.ndarray:
    """Four images of a dark spot on a bright background, to the right of and below the centre."""
    image = np.full((48, 48), 200, np.uint8)
    image[26:30, 28:34] = 20
    return np.stack([image] * 4)


def centre(image: np.ndarray) -> np.ndarray:
    dark = 200.0 - image
    y, x = np.indices(image.shape)
    return np.array([(dark * x).sum(), (dark * y).sum()]) / dark.sum()


def test_every_shift_keeps_shape_and_type_and_changes_something() -> None:
    for name in SHIFTS:
        changed = shifted(faces(), name)
        assert changed.shape == (4, 48, 48)
        assert changed.dtype == np.uint8
        assert (changed != faces()).any(axis=(1, 2)).all(), name


def test_faces_move_scale_and_rotate_as_named() -> None:
    x, y = centre(faces()[0])
    moved = [centre(image) - (x, y) for image in shifted(faces(), "moved by 10%")]
    assert np.array(moved) == pytest.approx(np.array([[-4.8, 0], [4.8, 0], [0, -4.8], [0, 4.8]]), abs=0.1)
    middle = np.array([23.5, 23.5])
    for name, factor in (("scaled by 0.85", 0.85), ("scaled by 1.25", 1.25)):
        assert centre(shifted(faces(), name)[0]) - middle == pytest.approx(factor * ((x, y) - middle), abs=0.15)
    for number, image in enumerate(shifted(faces(), "turned by 15 degrees")):
        before, after = (np.arctan2(*(point - middle)[::-1]) for point in (np.array([x, y]), centre(image)))
        assert np.rad2deg(after - before) == pytest.approx(15 * (-1) ** number, abs=1.5)
    assert shifted(faces(), "darkened").max() == 80
