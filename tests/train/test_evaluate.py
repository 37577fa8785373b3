"""Scores of whole splits: framing is jittered the same each time, sources and both labellings are scored separately."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from facexp.geometry import KEYPOINTS
from facexp.labels import FIVE, SEVEN
from facexp_train.augmentation.framing import jittered_crops
from facexp_train.data.emotion_data import EmotionFaces, EmotionReport
from facexp_train.data.keypoint_data import KeypointFaces
from facexp_train.errors import DataError
from facexp_train.evaluation import evaluate, evaluation_page
from facexp_train.evaluation.shifts import SHIFTS


def keypoint_faces(count: int = 12) -> KeypointFaces:
    rng = np.random.default_rng(0)
    points = rng.uniform(60, 110, (count, 15, 2)).astype(np.float32)
    points[:, 0], points[:, 1] = (104, 78), (72, 78)
    points[::3, 5] = np.nan
    return KeypointFaces(
        images=rng.integers(0, 256, (count, 176, 176), dtype=np.uint8),
        points=points,
        squares=np.tile([87.5, 87.5, 96.0], (count, 1)),
        source=np.array(["one", "two"] * (count // 2)),
        group=np.arange(count).astype(str),
        split=np.array(["test"] * count),
        names=np.arange(count).astype(str),
        upscale=np.full(count, 1.5),
    )


def emotion_faces() -> EmotionFaces:
    labels = np.array([0, 1, 2, 3, 4, 5, 6, 3])
    votes = np.zeros((8, 10), np.float32)
    votes[:, 0] = 10
    votes[7] = (0, 0, 0, 0, 0, 0, 0, 0, 0, 10)
    return EmotionFaces(
        images=np.zeros((8, 48, 48), np.uint8),
        labels=labels,
        votes=votes,
        split=np.array(["test"] * 8),
        rows=np.arange(8),
        copies=np.arange(8).astype(np.str_),
        group=np.arange(8).astype(np.str_),
        names=np.arange(8).astype(np.str_),
        report=EmotionReport(8, 0, 0, 0),
    )


def test_a_perfect_model_has_no_error() -> None:
    faces = keypoint_faces()
    _, truth = jittered_crops(faces)
    evaluation = evaluate.evaluate_keypoints(lambda crops: {"keypoints": np.nan_to_num(truth)}, faces, "test")
    assert evaluation.value("error_interocular") == 0
    assert evaluation.value("error_interocular", "test/two") == 0
    assert evaluation.value("points_within_5") == 1


def test_errors_are_reported_per_source_and_worst_faces_by_name() -> None:
    faces = keypoint_faces()
    _, truth = jittered_crops(faces)
    wrong = np.nan_to_num(truth)
    wrong[1::2] += 4
    wrong[5] += 9
    evaluation = evaluate.evaluate_keypoints(lambda crops: {"keypoints": wrong}, faces, "test")
    assert evaluation.value("error_interocular", "test/one") == 0
    assert evaluation.value("error_interocular", "test/two") > 0.1
    assert evaluation.worst[0][0] == "5"
    table = evaluate.keypoint_table(evaluation)
    assert "test/two" in table
    assert all(name in table for name in KEYPOINTS)


def test_the_jitter_is_the_same_each_time_and_moves_the_frame() -> None:
    faces = keypoint_faces()
    crops, points = jittered_crops(faces)
    again, points_again = jittered_crops(faces)
    assert (crops == again).all()
    assert np.array_equal(points, points_again, equal_nan=True)
    exact = faces.points - 39.5 - 0.5
    assert np.nanmean(np.abs(points - exact)) > 1


def test_faces_are_grouped_by_pose_and_size() -> None:
    faces = keypoint_faces(4)
    names = {name: index for index, name in enumerate(KEYPOINTS)}
    # the eyes are 32 px apart around (88, 78)
    for row, below in enumerate((38, 46, 60, 38)):
        faces.points[row, names["mouth_left_corner"]] = (98, 78 + below)
        faces.points[row, names["mouth_right_corner"]] = (78, 78 + below)
    faces.upscale[:] = (96 / 40, 1.0, 0.1, np.nan)
    found = {name: np.flatnonzero(mask).tolist() for name, mask in evaluate.strata(faces).items()}
    assert found == {
        "one": [0, 2],
        "two": [1, 3],
        "frontal": [0, 3],
        "turned": [1],
        "profile": [2],
        "below 64 px": [0],
        "64 to 128 px": [1],
        "above 128 px": [2],
    }


def test_a_missed_face_counts_as_a_failure_but_has_no_error() -> None:
    faces = keypoint_faces()
    truth = {image.tobytes(): points for image, points in zip(faces.images, faces.points, strict=True)}
    positions = []

    def locate(image: np.ndarray, inside: tuple[float, float]) -> np.ndarray | None:
        positions.append(inside)
        number = len(positions) - 1
        if number == 3:
            return None
        # the eyes are 32 px apart: 8 px on each axis is an error of 35%
        return np.nan_to_num(truth[image.tobytes()]) + (8 if number == 5 else 0)

    evaluation = evaluate.evaluate_detected(locate, faces, "test", quiet=True)
    assert positions == [(87.5, 87.5)] * 12
    assert evaluation.value("detected_missed") == pytest.approx(1 / 12)
    assert evaluation.value("detected_failures") == pytest.approx(2 / 12)
    assert evaluation.value("detected_failures", "test/one") == 0
    error = np.linalg.norm([8, 8]) / 32
    assert evaluation.value("detected_error_interocular") == pytest.approx(error / 11)
    assert evaluation.value("detected_error_interocular_median") == 0
    assert evaluation.worst[0] == ("5", pytest.approx(error))
    assert ">10% or missed" in evaluate.keypoint_table(evaluation)


def test_each_head_is_scored_against_its_own_labelling() -> None:
    faces = emotion_faces()
    own = np.eye(7, dtype=np.float32)[faces.labels]
    neutral = np.tile(np.eye(7, dtype=np.float32)[SEVEN.index("neutral")], (8, 1))
    evaluation = evaluate.evaluate_emotion(lambda crops: {"fer2013": own, "ferplus": neutral}, faces, "test")
    assert evaluation.value("fer2013/accuracy") == 1
    assert evaluation.value("fer2013/macro_f1") == 1
    # the eighth face is "not a face" to FER+ and is not rated
    assert evaluation.value("ferplus/accuracy") == evaluation.value("ferplus_clear/accuracy") == 1
    five = next(f for f in evaluation.figures if f.metric == "fer2013_five/accuracy")
    assert five.n == 6
    confusion = {c.name: c for c in evaluation.confusions}
    assert confusion["fer2013_five"].labels == FIVE
    assert "happy" in evaluate.emotion_table(evaluation)


def test_faces_are_also_scored_after_each_shift() -> None:
    # guards which pictures a figure was measured on
    faces = dataclasses.replace(emotion_faces(), images=np.full((8, 48, 48), 200, np.uint8))

    def predict(crops: np.ndarray) -> dict[str, np.ndarray]:
        right = np.eye(7, dtype=np.float32)[faces.labels]
        return {"fer2013": right if crops.mean() > 100 else np.roll(right, 1, axis=1)}

    evaluation = evaluate.evaluate_emotion(predict, faces, "test")
    assert {name: evaluation.value("fer2013/accuracy", f"test/{name}") for name in SHIFTS} == {
        name: float(name != "darkened") for name in SHIFTS
    }
    assert "darkened" in evaluate.emotion_table(evaluation)


def test_faces_are_also_scored_as_the_runtime_crops_them() -> None:
    # guards which crops and which classes a figure was measured on
    faces = emotion_faces()

    def predict(crops: np.ndarray) -> dict[str, np.ndarray]:
        right = np.eye(7, dtype=np.float32)[faces.labels]
        wrong = right.copy()
        wrong[0] = np.eye(7)[SEVEN.index("neutral")]
        return {"fer2013": wrong if (crops == 9).all() else right}

    evaluation = evaluate.evaluate_emotion(predict, faces, "test", align=lambda images: np.full_like(images, 9))
    assert evaluation.value("fer2013/accuracy") == 1
    assert evaluation.value("fer2013/accuracy", "test/aligned") == 7 / 8
    # among the five classes, an angry face predicted as neutral falls to the first of them, which is angry
    assert evaluation.value("fer2013_five/accuracy", "test/aligned") == 1
    assert "aligned, as facexp crops faces: accuracy 87.5" in evaluate.emotion_table(evaluation)
    assert "aligned" not in evaluate.emotion_table(evaluate.evaluate_emotion(predict, faces, "test"))


def test_answers_that_are_not_numbers_are_refused() -> None:
    """Guards the scores: faces without a point were left out, as if unlabelled; of emotions it was a traceback."""
    points = np.zeros((12, 15, 2), np.float32)
    points[4:6, 3] = np.inf
    with pytest.raises(DataError, match="output keypoints is not a finite number for 2 of 12 faces"):
        evaluate.evaluate_keypoints(lambda crops: {"keypoints": points}, keypoint_faces(), "test")
    logits = np.zeros((8, 7), np.float32)
    logits[2] = np.nan
    with pytest.raises(DataError, match="output fer2013 is not a finite number for 1 of 8 faces"):
        evaluate.evaluate_emotion(lambda crops: {"fer2013": logits}, emotion_faces(), "test")


def test_faces_without_eyes_are_not_scored() -> None:
    """Guards data of other points: a table without a row, or a traceback from the drawing of its curves."""
    faces = keypoint_faces()
    faces.points[:, 0] = np.nan
    answers = np.zeros((12, 15, 2), np.float32)
    with pytest.raises(DataError, match="no face of split 'test' has both eye centres"):
        evaluate.evaluate_keypoints(lambda crops: {"keypoints": answers}, faces, "test")
    with pytest.raises(DataError, match="no face of split 'test' has both eye centres"):
        evaluate.evaluate_detected(lambda image, inside: answers[0], faces, "test", quiet=True)


def test_an_empty_split_is_named() -> None:
    with pytest.raises(DataError, match="no faces in split 'val'; it has test"):
        evaluate.evaluate_keypoints(lambda crops: {}, keypoint_faces(), "val")


def test_the_report_keeps_other_splits(tmp_path: Path) -> None:
    faces = emotion_faces()
    evaluation = evaluate.evaluate_emotion(
        lambda crops: {"fer2013": np.eye(7, dtype=np.float32)[faces.labels]}, faces, "test"
    )
    data = tmp_path / "faces.csv"
    evaluation_page.write_figures(evaluation, data, tmp_path)
    other = evaluate.Evaluation("val", (evaluate.Figure("val", "m", 1, 1, 1, 1),))
    path = evaluation_page.write_figures(other, data, tmp_path)

    def splits() -> set[str]:
        return {figure["split"] for figure in json.loads(path.read_text())["figures"]}

    assert splits() == {"test", "val", *(f"test/{name}" for name in SHIFTS)}
    # figures measured on other data are replaced
    evaluation_page.write_figures(other, tmp_path / "others.csv", tmp_path)
    assert splits() == {"val"}
    path.write_text("{")
    with pytest.raises(DataError, match=r"evaluation\.json: cannot be read .*; delete it"):
        evaluation_page.write_figures(other, data, tmp_path)
