"""The figures of the parity check on made-up outputs, where the right answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from facexp_export import parity
from facexp_export.errors import ParityError
from facexp_export.parity import Measured


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).normal(48, 10, (300, 15, 2)).astype(np.float32)


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (300, 7)).astype(np.float32)


def judge(kind: Any, precision: Any, reference: np.ndarray, candidate: np.ndarray) -> dict[str, Measured]:
    return {item.metric: item for item in parity.compare({"out": reference}, {"out": candidate}, kind, precision)}


def failed(measured: dict[str, Measured]) -> set[str]:
    return {name for name, item in measured.items() if not item.passed}


def test_equal_outputs_pass(points: np.ndarray, logits: np.ndarray) -> None:
    """Guards against a check that cannot be passed."""
    for kind, values in (("points", points), ("logits", logits)):
        for precision in ("float32", "int8"):
            assert not failed(judge(kind, precision, values, values.copy()))


def test_one_wrong_coordinate_fails_float32(points: np.ndarray) -> None:
    """Guards the worst case: one point of one face must not drown in the mean of 4,500."""
    moved = points.copy()
    moved[123, 4, 1] += 0.02
    measured = judge("points", "float32", points, moved)
    assert measured["largest difference"].value == pytest.approx(0.02, abs=1e-4)
    assert failed(measured) == {"largest difference"}


def test_shift_has_its_length(points: np.ndarray) -> None:
    """Guards the unit: displacement is a distance in pixels, not a mean over x and y."""
    measured = judge("points", "int8", points, points + np.array([0.3, 0.4], np.float32))
    assert measured["mean displacement"].value == pytest.approx(0.5, abs=1e-4)
    assert "mean displacement" in failed(measured)


def test_few_bad_faces_fail_int8(points: np.ndarray) -> None:
    """Guards what a mean hides: 2% of the faces three pixels off."""
    moved = points.copy()
    moved[:6] += 3
    assert failed(judge("points", "int8", points, moved)) == {"99th percentile displacement"}


def test_one_bad_point_fails_int8(points: np.ndarray) -> None:
    """Guards a single point that is always off, here by 0.6 px."""
    moved = points.copy()
    moved[:, 7, 0] += 0.6
    assert failed(judge("points", "int8", points, moved)) == {"mean displacement of the worst point"}


def test_swapped_labels_fail_int8(logits: np.ndarray) -> None:
    """Guards label agreement: 4% of the faces with another label."""
    changed = logits.copy()
    changed[:12] = changed[:12, ::-1]
    assert "label agreement" in failed(judge("logits", "int8", logits, changed))


def test_flattened_probabilities_fail_int8(logits: np.ndarray) -> None:
    """Guards probabilities where every label stays: a head whose scale is off."""
    measured = judge("logits", "int8", logits, logits / 2)
    assert measured["label agreement"].value == 1
    assert "mean probability difference" in failed(measured)


def test_what_is_not_a_number_fails(points: np.ndarray, logits: np.ndarray) -> None:
    """Guards comparisons with NaN, which are false either way."""
    for kind, values in (("points", points), ("logits", logits)):
        broken = values.copy()
        broken[5] = np.nan
        for precision in ("float32", "int8"):
            assert failed(judge(kind, precision, values, broken))
        with pytest.raises(ParityError, match="not finite"):
            parity.check_reference({"out": broken}, kind)


def test_batches_are_held_to_the_float_tolerance(points: np.ndarray) -> None:
    """Guards an int8 file whose answer depends on the faces beside it."""
    few = points[:8]
    for shift, passed in ((0.0, True), (0.1, False)):
        (item,) = parity.compare_batches({"out": few}, {"out": few + np.float32(shift)}, "points", "int8")
        assert item.passed is passed


def test_reference_must_vary(points: np.ndarray, logits: np.ndarray) -> None:
    """Guards a check that a dead network would pass."""
    parity.check_reference({"out": points}, "points")
    parity.check_reference({"out": logits}, "logits")
    with pytest.raises(ParityError, match="vary by only"):
        parity.check_reference({"out": np.repeat(points[:1], 300, axis=0)}, "points")
    with pytest.raises(ParityError, match="300 of 300 faces the same label"):
        parity.check_reference({"out": logits + np.array([99, 0, 0, 0, 0, 0, 0], np.float32)}, "logits")


def test_softmax_does_not_overflow() -> None:
    """Guards large logits."""
    np.testing.assert_allclose(parity.softmax(np.array([[1000, 0]], np.float32)), [[1, 0]])


def test_table_marks_the_failure(points: np.ndarray) -> None:
    """Guards the lines a user reads."""
    lines = parity.table(list(judge("points", "int8", points, points + 1).values())).splitlines()
    assert len(lines) == 5
    assert sum("FAILED" in line for line in lines) == 3
    assert any("reported" in line for line in lines)
