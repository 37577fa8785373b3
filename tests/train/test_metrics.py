"""Metrics against figures worked out by hand, and the properties of their intervals."""

import numpy as np
import pytest

from facexp.geometry import KEYPOINTS
from facexp.labels import SEVEN
from facexp_train.evaluation import metrics


def truth(count: int = 3) -> np.ndarray:
    points = np.zeros((count, len(KEYPOINTS), 2), np.float32)
    points[:, :, 0] = np.arange(len(KEYPOINTS))
    points[:, KEYPOINTS.index("left_eye_center")] = (60, 30)
    points[:, KEYPOINTS.index("right_eye_center")] = (20, 30)
    return points


def value(figures: list[metrics.Figure], name: str) -> float:
    return next(f.value for f in figures if f.metric == name)


def test_error_is_divided_by_the_inter_ocular_distance() -> None:
    target = truth()
    errors = metrics.keypoint_errors(target + np.float32([3, 4]), target)
    assert errors.pixels == pytest.approx(np.full((3, 15), 5.0))
    assert errors.face == pytest.approx(np.full(3, 5 / 40))
    figures = metrics.keypoint_figures(errors, np.arange(3), "test")
    # per coordinate, as Kaggle: sqrt((3^2 + 4^2) / 2)
    assert value(figures, "rmse_px") == pytest.approx(np.sqrt(12.5))
    assert value(figures, "points_within_10") == 0
    assert value(figures, "faces_above_10") == 1


def test_missing_points_do_not_count() -> None:
    target = truth(2)
    target[0, 10:] = np.nan
    prediction = np.nan_to_num(target, nan=999.0) + np.float32([4, 0])
    errors = metrics.keypoint_errors(prediction, target)
    assert errors.face == pytest.approx([0.1, 0.1])
    figures = metrics.keypoint_figures(errors, np.arange(2), "test")
    assert value(figures, "rmse_px") == pytest.approx(np.sqrt(8))


def test_a_face_without_eye_centres_is_not_rated() -> None:
    target = truth(2)
    target[1, 0] = np.nan
    errors = metrics.keypoint_errors(target, target)
    assert np.isnan(errors.face[1])
    assert metrics.keypoint_figures(errors, np.arange(2), "test")[0].n == 1


def test_accuracy_f1_and_confusion_by_hand() -> None:
    codes = np.array([0, 0, 3, 3, -1])
    logits = np.eye(7, dtype=np.float32)[[0, 3, 3, 3, 5]]
    figures, table = metrics.emotion_figures(logits, codes, np.arange(5).astype(str), SEVEN, "test")
    assert value(figures, "accuracy") == 0.75
    assert value(figures, "recall/angry") == 0.5
    assert value(figures, "precision/happy") == pytest.approx(2 / 3)
    # F1 of angry 2/3, of happy 4/5; classes that are not in the truth stay out of the mean
    assert value(figures, "macro_f1") == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert table[0, 3] == 1
    assert table.sum() == 4


def test_an_undefined_metric_is_left_out(recwarn: pytest.WarningsRecorder) -> None:
    # guards the precision of a class that is never predicted: it is NaN, which JSON cannot hold
    logits = np.eye(7, dtype=np.float32)[[0, 0, 0]]
    figures, _ = metrics.emotion_figures(logits, np.array([0, 0, 3]), np.array(["a", "b", "c"]), SEVEN, "test")
    assert value(figures, "recall/happy") == 0
    assert "precision/happy" not in {figure.metric for figure in figures}
    assert all(np.isfinite([figure.value, figure.low, figure.high]).all() for figure in figures)
    assert not recwarn.list


def test_intervals_contain_the_value_and_widen_with_groups() -> None:
    hit = (np.arange(400) % 4 > 0).astype(float)
    alone = metrics.figure("t", "m", metrics.ratio(hit, np.ones(400)), metrics.resample_weights(np.arange(400)))
    # faces of a group agree: there are forty independent ones, not four hundred
    hit = np.repeat((np.arange(40) % 4 > 0).astype(float), 10)
    grouped = metrics.figure(
        "t", "m", metrics.ratio(hit, np.ones(400)), metrics.resample_weights(np.repeat(np.arange(40), 10))
    )
    assert alone.value == grouped.value == 0.75
    assert alone.low < 0.75 < alone.high
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)
    # the normal approximation: 1.96 * sqrt(0.75 * 0.25 / 400) = 0.042 to either side
    assert alone.high - alone.low == pytest.approx(0.085, abs=0.012)


def test_emotions_of_one_group_are_resampled_together() -> None:
    """Guards against too narrow intervals when faces of one person are right or wrong together; one is not rated."""
    truth = np.repeat(np.arange(20) % 2, 10)
    truth[0] = -1
    logits = np.eye(2, dtype=np.float32)[np.repeat(np.arange(20) % 4 // 2, 10)]
    people, alone = np.repeat(np.arange(20), 10).astype(str), np.arange(200).astype(str)
    figures = [metrics.emotion_scores(logits, truth, groups, "test")[0] for groups in (alone, people)]
    assert figures[0].value == figures[1].value == pytest.approx(99 / 199)
    assert figures[1].high - figures[1].low > 2 * (figures[0].high - figures[0].low)


def test_the_area_under_a_roc_curve_counts_ties_half_and_weights_faces() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 6, 80) / 6, rng.random(80) < 0.3
    weights = rng.integers(0, 3, (4, 80)).astype(float)
    expected = [roc_auc_score(positive, score, sample_weight=each) for each in weights]
    assert metrics.roc_area(score, positive)(weights) == pytest.approx(expected)


def test_the_ced_auc_is_the_area_under_the_cumulative_error_curve() -> None:
    target = truth(5)
    offsets = np.array([0, 1, 2, 3.5, 8], np.float32)
    errors = metrics.keypoint_errors(target + np.stack([offsets, 0 * offsets], -1)[:, None], target)
    figures = metrics.keypoint_figures(errors, np.arange(5), "test")
    thresholds = np.linspace(0, metrics.FAILURE, 100001)
    curve = (errors.face[:, None] <= thresholds).mean(axis=0)
    assert value(figures, "ced_auc_10") == pytest.approx(curve.mean(), abs=1e-4)
    assert value(figures, "mse_px") == pytest.approx(value(figures, "rmse_px") ** 2)


def test_the_interval_of_the_median_has_the_theoretical_width() -> None:
    # 400 evenly spread errors from 0 to 0.2: the median's standard deviation is 0.5 / sqrt(400) of the range
    target = truth(400)
    offsets = np.stack([np.linspace(0, 8, 400), np.zeros(400)], -1)[:, None].astype(np.float32)
    errors = metrics.keypoint_errors(target + offsets, target)
    (median,) = (f for f in metrics.keypoint_figures(errors, np.arange(400), "t") if f.metric.endswith("_median"))
    assert median.value == pytest.approx(0.1, abs=1e-3)
    assert median.low < median.value < median.high
    assert median.high - median.low == pytest.approx(2 * 1.96 * 0.2 * 0.5 / 20, rel=0.2)
