"""Tracking faces: identities, when the detector runs, and what is forgotten; the film is that of tests/film.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facexp.motion import Motion, differ

Image = NDArray[np.uint8]


def test_a_face_is_tracked_without_the_detector(film: Callable[..., Any]) -> None:
    # guards: one id, the box and points where the face is now, the detector once a second
    run = film()
    for frame in range(100):
        place = (60.0 + 3 * frame, 120 + 20 * np.sin(frame / 10))
        (face,) = run.show(place)
        assert face.id == 1
        assert face.score == 0.9
        assert np.abs(run.centre(face) - place).max() < 2
        assert face.box[2:] == pytest.approx((run.SIDE, run.SIDE), rel=0.03)
        assert np.abs(face.keypoints[10] - place).max() < run.SIDE / 4
    assert run.detector_runs == [0, 25, 50, 75]


def test_one_keypoint_pass_is_enough_for_a_face_that_barely_moves(film: Callable[..., Any]) -> None:
    # guards: the speed of tracking, and that only the face that moved gets a second pass
    run = film()
    for step, batches in ((0, [2, 2]), (0.5, [2]), (0.5, [2]), (6.0, [2, 1])):
        run.batches.clear()
        assert len(run.show((100 + step, 100), (300, 100))) == 2
        assert run.batches == batches


@pytest.mark.parametrize(("detect_every", "runs"), [(1, 30), (10, 3), (None, 2)])
def test_how_often_the_detector_runs(film: Callable[..., Any], detect_every: int | None, runs: int) -> None:
    # guards: --detect-every
    run = film(detect_every=detect_every)
    for _ in range(30):
        assert run.ids((100, 100)) == {0: 1}
    assert len(run.detector_runs) == runs


def test_the_detector_runs_by_frame_times_not_frame_numbers(film: Callable[..., Any]) -> None:
    # guards: --every and slow cameras
    run = film()
    for _ in range(20):
        run.show((100, 100), step=5)
    assert run.detector_runs == [4, 29, 54, 79]


def test_a_newcomer_is_found_at_once(film: Callable[..., Any]) -> None:
    # guards: a second person in a scene at rest, also long after the last detection; a third id for a third person
    run = film()
    for _ in range(10):
        run.show((100, 100))
    assert run.ids((100, 100), (300, 80)) == {0: 1, 1: 2}
    for _ in range(7):
        run.show((100, 100), (300, 80))
    assert run.ids((100, 100), (300, 80), (400, 180)) == {0: 1, 1: 2, 2: 3}


def test_a_newcomer_in_a_busy_scene_is_found_within_a_second(film: Callable[..., Any]) -> None:
    # guards: detector runs that find nothing become rare, but never rarer than one a second; motion is not a face
    run = film()
    detect = run._detect
    run.analyzer._detector = SimpleNamespace(detect=lambda image, min_face: detect(image)[-1:])  # type: ignore[assignment]
    for frame in range(100):
        # the detector does not find what moves on the right
        assert [face.id for face in run.show((100, 100), (300 + 3 * (frame % 40), 80))] == [1]
    assert len(run.detector_runs) < 12
    run.analyzer._detector = SimpleNamespace(detect=detect)  # type: ignore[assignment]
    found = [len(run.show((100, 100), (300 + 3 * (frame % 40), 80))) for frame in range(26)]
    assert found[-1] == 2


def test_a_face_that_disappears_is_dropped_and_may_come_back(film: Callable[..., Any]) -> None:
    # guards: dropped in that very frame by a detector run; the same id if it is back soon, a new one later
    run = film()
    for _ in range(5):
        run.show((100, 100))
    assert run.show() == []
    assert run.detector_runs[-1] == run.frame
    for _ in range(10):
        assert run.show() == []
    # waiting costs few detector runs
    assert len(run.detector_runs) < 9
    assert [run.ids((110, 105)) for _ in range(5)][-1] == {0: 1}
    for _ in range(45):
        run.show()
    assert [run.ids((110, 105)) for _ in range(5)][-1] == {0: 2}


@pytest.mark.parametrize("step", [1, 25])
def test_a_face_that_leaves_a_plain_background_is_dropped(film: Callable[..., Any], step: int) -> None:
    # guards: records of absent faces: the network finds an average face in a plain picture at every pass
    run = film()
    run.analyzer._keypoints.session.run = run._run  # type: ignore[method-assign]
    both = run.ids((100, 100), (300, 100), step=step)
    for _ in range(4):
        assert run.ids((100, 100), (300, 100), step=step) == both
    assert run.ids((300, 100), step=step) == {0: both[1]}
    assert run.detector_runs[-1] == run.frame
    assert run.ids((100, 100), (300, 100), step=step) == both


def test_a_moving_face_is_not_taken_for_another() -> None:
    # guards: a detector run in each frame where a face moves fast in front of a busy background
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(0, 255, (6, 12)).astype(np.uint8), (480, 240), interpolation=cv2.INTER_CUBIC)
    head = cv2.resize(rng.integers(0, 255, (4, 4)).astype(np.uint8), (60, 60), interpolation=cv2.INTER_CUBIC)
    motion, appearances = Motion(), []
    for x in range(0, 400, 31):
        image, box = ground.copy(), (float(x), 80.0, 60.0, 60.0)
        image[80:140, x : x + 60] = head
        motion.cut(image)
        appearances.append(motion.appearance(box))
        assert not differ(appearances[0], appearances[-1], cut=True)
    motion.cut(ground)
    assert differ(appearances[-1], motion.appearance(box))


def test_a_face_at_another_place_gets_a_new_id(film: Callable[..., Any]) -> None:
    # guards: an id is not passed on across the picture, nor to a face of a very different size
    run = film()
    assert run.ids((80, 100)) == {0: 1}
    run.show()
    assert run.ids((380, 100)) == {0: 2}
    run.show()
    assert [[face.id for face in run.show((380, 100, 3 * run.SIDE))] for _ in range(5)][-1] == [3]


def test_a_scene_cut_starts_new_ids(film: Callable[..., Any]) -> None:
    # guards: another scene with a face at the same place, and an empty scene
    run = film()
    for _ in range(5):
        run.show((100, 100))
    assert run.ids((100, 100), scene=1) == {0: 2}
    assert run.ids((102, 100), scene=1) == {0: 2}
    assert run.show(scene=0) == []


def test_a_camera_that_pans_keeps_its_faces(film: Callable[..., Any]) -> None:
    # guards: a picture that changes as a whole because the camera moves, and a torn one, are not another scene
    run = film(smooth=0.3)
    ground = np.random.default_rng(0).integers(0, 90, (6, 24)).astype(np.uint8)
    ground = np.asarray(cv2.resize(ground, (480, 240), interpolation=cv2.INTER_NEAREST), np.uint8)
    motion = Motion()
    for frame in range(12):
        moved = np.roll(ground, 20 * frame, axis=1)
        assert motion.cut(moved)
        places = (100 + 12.0 * frame, 100.0), (300 + 12.0 * frame, 100.0)
        assert run.ids(*places, background=moved) == {0: 1, 1: 2}
    assert run.show(background=np.zeros_like(ground)) == []
    faces = run.show(*places, background=moved)
    assert sorted(face.id or 0 for face in faces) == [1, 2]
    # smoothing continues
    assert all(face.smoothed and np.abs(face.smoothed.keypoints - face.keypoints).max() > 0 for face in faces)


def test_a_face_that_the_detector_no_longer_finds_is_dropped(film: Callable[..., Any]) -> None:
    # guards: keypoints that stick to a wall: the face is dropped after a few runs in a row, not after the first
    run = film()
    for _ in range(24):
        run.show((100, 100))
    run.min_detected_x = 400.0
    counts = [len(run.show((100, 100))) for _ in range(26)]
    assert counts[0] == 1
    assert counts[-1] == 0


@pytest.mark.parametrize("apart", [10.0, 30.0, 60.0])
def test_people_who_pass_each_other_keep_their_ids(film: Callable[..., Any], apart: float) -> None:
    # guards: crossing paths, with one face hiding the other for a while
    run = film()
    names = []
    for frame in range(80):
        a, b = (60 + 4.0 * frame, 100.0), (380 - 4.0 * frame, 100.0 + apart)
        if np.hypot(a[0] - b[0], a[1] - b[1]) > 1.2 * run.SIDE:
            names.append(run.ids(a, b))
        else:
            faces = run.show(a, b)
            assert len({face.id for face in faces}) == len(faces)
    assert sorted(names[0].values()) == [1, 2]
    assert all(name == names[0] for name in names)


@pytest.mark.parametrize(("first", "speed"), [(0, 2.0), (1, 2.0), (0, 1.0)])
def test_two_tracks_never_share_one_face(film: Callable[..., Any], first: int, speed: float) -> None:
    # guards: a track whose face moves behind another must not continue on that one, nor take over its id
    run = film()
    run.show(((170.0, 100.0), (100.0, 100.0))[first])
    front = run.ids((170, 100), (100, 100))[1]
    for step in range(round(100 / speed)):
        faces = run.show((max(100.0, 170 - speed * step), 100), (100, 100))
        assert all(
            np.hypot(*(run.centre(a) - run.centre(b))) > run.SIDE / 3 for a in faces for b in faces if a is not b
        )
    assert [face.id for face in faces] == [front]


@pytest.mark.parametrize("front", [0, 1])
def test_points_that_jump_to_a_neighbour_are_not_followed(film: Callable[..., Any], front: int) -> None:
    # guards: if the points of two tracks are found on one face, it stays with the track that was there
    run, places = film(), ((170.0, 100.0), (100.0, 100.0))
    for _ in range(3):
        ids = run.ids(*places)
    run.min_detected_x = 400
    follow = run.analyzer.follow
    row = [track.id for track in run.tracker._tracks].index(ids[front] or 0)
    run.analyzer.follow = lambda gray, last: follow(gray, last.rows([row, row]))  # type: ignore[method-assign]
    assert run.ids(*places) == {front: ids[front]}


def test_a_detection_goes_to_the_track_at_its_place(film: Callable[..., Any]) -> None:
    # guards: a tracked face that the detector misses does not absorb the newcomer that it finds
    run = film()
    for _ in range(5):
        run.show((100, 100))
    run.min_detected_x = 200
    assert run.ids((100, 100), (300, 100)) == {0: 1, 1: 2}


def test_faces_side_by_side_keep_their_ids_through_many_detections(film: Callable[..., Any]) -> None:
    # guards: the detector's boxes go to the right tracks, in whatever order they come
    run = film(detect_every=1)
    places: Sequence[tuple[float, ...]] = [(60.0 + 75 * i, 120.0) for i in range(5)]
    first = run.ids(*places)
    assert sorted(first.values()) == [1, 2, 3, 4, 5]
    for step in range(20):
        moved = [(x + step, y + (-1) ** i * step) for i, (x, y) in enumerate(places)]
        assert run.ids(*moved) == first


def test_max_faces_limits_the_tracks(film: Callable[..., Any]) -> None:
    # guards: --max-faces: no more than requested, and ids do not alternate between two faces of similar size
    run = film(max_faces=1, detect_every=1)
    for extra in (0, 0, 1, 1, 2, 2):
        faces = run.show((100, 100), *[(300, 100, 1.1 * run.SIDE), (400, 200)][:extra])
        assert [face.id for face in faces] == [1]
    # a clearly larger one takes its place
    for _ in range(2):
        faces = run.show((100, 100), (300, 100, 1.6 * run.SIDE))
        assert [face.id for face in faces] == [2]


def test_memory_does_not_grow(film: Callable[..., Any]) -> None:
    # guards: lists that grow with the length of a stream, also where its clock stands still
    run = film(smooth=0.3)
    rng = np.random.default_rng(0)
    for frame in range(150):
        run.frame = run.frame if frame < 80 else 80
        run.show(*[tuple(rng.uniform(40, 200, 2))], step=int(frame < 80))
    assert len(run.tracker._tracks) + len(run.tracker._lost) < 80
