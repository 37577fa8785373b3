"""The results for tracked faces: order, scores, smoothed values; the film is that of tests/film.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import facexp
from facexp.detector import Detection
from facexp.geometry import Image
from facexp.tracking import Tracker


def test_smoothed_values_stand_next_to_the_raw_ones(film: Callable[..., Any]) -> None:
    # guards: --smooth and --smooth 0, and that smoothing continues for a face that was lost for a moment
    with_it, without = film(smooth=0.3), film(smooth=0)
    for frame in range(30):
        place = (100.0 + 4 * (frame > 20), 100.0)
        (smooth,), (raw,) = with_it.show(place), without.show(place)
        assert raw.smoothed is None
        assert raw.shown.emotion == raw.emotion
        assert smooth.smoothed is not None
        assert np.array_equal(smooth.keypoints, raw.keypoints)
        assert smooth.emotion == raw.emotion
        if frame == 21:
            assert 100 < smooth.smoothed.keypoints[10, 0] - (raw.keypoints[10, 0] - 104) < 104
        assert tuple(smooth.smoothed.emotion.probabilities) == facexp.SEVEN


def test_five_emotions_are_smoothed(film: Callable[..., Any]) -> None:
    # guards: smoothing over the labels that are in use
    run = film(smooth=0.3, emotions="five")
    for _ in range(3):
        (face,) = run.show((100, 100))
    assert face.smoothed is not None
    assert tuple(face.smoothed.emotion.probabilities) == facexp.FIVE


def test_wrong_settings_are_refused(analyzer: facexp.Analyzer) -> None:
    # guards: settings that make no sense
    with pytest.raises(ValueError, match="detect_every must be None or a whole number of at least 1, got 0"):
        Tracker(analyzer, detect_every=0)
    with pytest.raises(ValueError, match="smooth must be 0 or more seconds, got -1"):
        Tracker(analyzer, smooth=-1)
    with pytest.raises(ValueError, match="time_ms must be finite, got nan"):
        Tracker(analyzer).track(np.zeros((48, 64), np.uint8), float("nan"))


@pytest.mark.parametrize("shape", [(2000, 1), (1, 70000), (20, 30000)])
def test_very_thin_pictures_are_accepted(analyzer: facexp.Analyzer, shape: tuple[int, int]) -> None:
    # guards: a flat animation or raw frames, which would end the run and all sources that follow
    tracker = Tracker(analyzer)
    for time_ms in (0, 40):
        assert tracker.track(np.zeros(shape, np.uint8), time_ms) == []


def test_the_largest_face_comes_first(film: Callable[..., Any]) -> None:
    # guards: the promised order if a person comes nearer than the one in front
    run = film()
    for places in (((100, 120, 50.0), (300, 120, 70.0)), ((100, 120, 50.0), (300, 120, 70.0), (200, 120, 60.0))):
        for _ in range(3):
            sizes = [face.box[2] for face in run.show(*places)]
        assert len(sizes) == len(places)
        assert sizes == sorted(sizes, reverse=True)


def test_a_face_that_shrinks_below_min_face_is_left_out(astronaut: Image) -> None:
    # guards: --min-face in a clip, where the detector, which knows the limit, runs only once a second
    tracker = Tracker(facexp.Analyzer("cpu", 1, min_face=80))
    sides = []
    for frame in range(25):
        picture = np.zeros_like(astronaut)
        height, width = (round(side * (1 - frame / 50)) for side in astronaut.shape[:2])
        picture[:height, :width] = cv2.resize(astronaut, (width, height), interpolation=cv2.INTER_AREA)
        sides.append(max((side for face in tracker.track(picture, 40 * frame) for side in face.box[2:]), default=0))
    assert sides[0] > 100
    assert all(side >= 80 or side == 0 for side in sides)
    assert sides[-1] == 0


def test_the_score_is_that_of_the_last_detection(film: Callable[..., Any]) -> None:
    # guards: "score" and the shape of the box: after each detection, and for a face that returns under its id
    run, seen = film(detect_every=1), {"score": 0.9}
    run.analyzer._detector = SimpleNamespace(  # type: ignore[assignment]
        detect=lambda image, min_face: [Detection(each.box, seen["score"]) for each in run._detect(image)]
    )
    assert [face.score for face in run.show((100, 100))] == [0.9]
    seen["score"] = 0.6
    assert [face.score for face in run.show((100, 100))] == [0.6]
    assert run.show() == []
    seen["score"] = 0.8
    assert [(face.id, face.score) for face in run.show((100, 100))] == [(1, 0.8)]


def test_the_detector_runs_at_once_if_the_clock_goes_back(film: Callable[..., Any]) -> None:
    # guards: a clip that starts over: the detector runs at once, not when the old time is reached again
    run = film()
    for _ in range(60):
        run.show((100, 100))
    run.detector_runs.clear()
    run.frame = 0
    run.show((100, 100))
    assert run.detector_runs == [1]


def test_a_newcomer_is_found_if_the_clock_stands_still(film: Callable[..., Any]) -> None:
    # guards: OpenCV's CAP_PROP_POS_MSEC, which is 0 for all frames of a raw H.264 file or an image sequence
    run = film()
    for _ in range(10):
        assert run.show(step=0) == []
    found = [run.ids((100, 100), step=0) for _ in range(40)]
    assert found[10:] == [{0: 1}] * 30


def test_another_frame_size_starts_new_ids(film: Callable[..., Any]) -> None:
    # guards: ids of a stream that changes its size, where the same coordinates are another place
    run = film()
    assert run.ids((100, 100)) == {0: 1}
    assert run.show() == []
    assert run.ids((100, 100), background=np.zeros((480, 640), np.uint8)) == {0: 2}


def test_faces_are_found_at_once_in_another_frame_size(film: Callable[..., Any]) -> None:
    # guards: a camera that halves its resolution, where the small copies that show a cut are alike
    run = film()
    for _ in range(60):
        run.show((200, 100))
    assert run.ids((100, 50, 30.0), background=np.zeros((120, 240), np.uint8)) == {0: 2}
    assert run.ids((200, 100), background=np.zeros((240, 480), np.uint8)) == {0: 3}
