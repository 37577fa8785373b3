"""Following faces: who is who, when the detector looks, and what is forgotten.

A face is a gray disc with a bright dot in its middle. The detector is told where they are, and the keypoint network of
the tiny bundle puts its points round the dot that its crop shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import facexp
from facexp.detector import Detection
from facexp.motion import Motion, differ
from facexp.tracking import Tracker

Image = NDArray[np.uint8]
Place = tuple[float, ...]
"""x, y and, where it is not SIDE, the side of the box."""
SIDE = 60.0
MS = 40.0


class Film:
    """A tracker whose detector is counted, and the frames it has seen."""

    def __init__(self, bundle: Path, *, smooth: float = 0.0, detect_every: int | None = None, **limits: Any) -> None:
        self.analyzer = facexp.Analyzer("cpu", 1, precision="float32", bundle=bundle, **limits)
        self.analyzer._detector = SimpleNamespace(detect=self._detect)  # type: ignore[assignment]
        keypoints = self.analyzer._keypoints._session
        self.tracker = Tracker(self.analyzer, smooth=smooth, detect_every=detect_every)
        self.looks: list[int] = []
        self.blind_until = -np.inf
        self.batches: list[int] = []
        self.frame = -1
        self._run, self._rng = keypoints.run, np.random.default_rng(0)
        keypoints.run = self._points  # type: ignore[method-assign]

    def show(self, *places: Place, scene: int = 0, step: int = 1, ground: Image | None = None) -> list[facexp.Face]:
        """The next frame: a face at each place, the later ones in front; another scene has another ground."""
        self.frame += step
        image = (
            np.tile(np.uint8([0, 60] if scene else [0, 0]).repeat(40), (240, 6)) if ground is None else ground.copy()
        )
        for place in places:
            middle = (round(16 * place[0]), round(16 * place[1]))
            for share, gray in ((0.5, 80), (0.1, 255)):
                cv2.circle(image, middle, round(16 * share * side(place)), gray, -1, cv2.LINE_AA, 4)
        self.places = places
        return self.tracker.track(image, MS * self.frame)

    def ids(self, *places: Place, **how: Any) -> dict[int, int | None]:
        """Show a frame; number of the place -> id of the face that lies there."""
        faces = self.show(*places, **how)
        found = {}
        for number, place in enumerate(places):
            here = [face for face in faces if np.hypot(*(centre(face) - place[:2])) < SIDE / 4]
            assert len(here) <= 1
            if here:
                found[number] = here[0].id
        assert len(found) == len(faces)
        return found

    def _detect(self, _: Image, min_face: float = 0) -> list[Detection]:
        self.looks.append(self.frame)
        kept: list[Place] = []
        for place in reversed(self.places):
            # of two that hide each other it sees the one in front
            if all(np.hypot(place[0] - other[0], place[1] - other[1]) > SIDE / 3 for other in kept):
                kept.append(place)
        boxes = [(place[0] - side(place) / 2, place[1] - side(place) / 2, side(place), side(place)) for place in kept]
        return [Detection(box, 0.9) for box in sorted(boxes, key=lambda box: -box[2]) if box[0] >= self.blind_until]

    def _points(self, batch: Image) -> Any:
        self.batches.append(len(batch))
        out = self._run(batch)
        # the network sees something else at each look where there is no face
        nothing = batch.max(axis=(1, 2, 3)) < 100
        out["keypoints"][nothing] += self._rng.normal(0, 8, (int(nothing.sum()), 15, 2)).astype(np.float32)
        return out


def side(place: Place) -> float:
    return place[2] if len(place) > 2 else SIDE


def centre(face: facexp.Face) -> NDArray[np.float64]:
    x, y, w, h = face.box
    return np.array([x + w / 2, y + h / 2])


@pytest.fixture
def film(tiny_bundle: Path) -> Callable[..., Film]:
    return lambda **how: Film(tiny_bundle, **how)


def test_a_face_is_followed_without_the_detector(film: Callable[..., Film]) -> None:
    # guards: one id, the box and points where the face is now, the detector once a second
    run = film()
    for frame in range(100):
        place = (60.0 + 3 * frame, 120 + 20 * np.sin(frame / 10))
        (face,) = run.show(place)
        assert face.id == 1
        assert face.score == 0.9
        assert np.abs(centre(face) - place).max() < 2
        assert face.box[2:] == pytest.approx((SIDE, SIDE), rel=0.03)
        assert np.abs(face.keypoints[10] - place).max() < SIDE / 4
    assert run.looks == [0, 25, 50, 75]


def test_one_look_is_enough_for_a_face_that_hardly_moves(film: Callable[..., Film]) -> None:
    # guards: the speed of following, and that only the face that moved is looked at again
    run = film()
    for step, batches in ((0, [2, 2]), (0.5, [2]), (0.5, [2]), (6.0, [2, 1])):
        run.batches.clear()
        assert len(run.show((100 + step, 100), (300, 100))) == 2
        assert run.batches == batches


@pytest.mark.parametrize(("detect_every", "looks"), [(1, 30), (10, 3), (None, 2)])
def test_how_often_the_detector_looks(film: Callable[..., Film], detect_every: int | None, looks: int) -> None:
    # guards: --detect-every
    run = film(detect_every=detect_every)
    for _ in range(30):
        assert run.ids((100, 100)) == {0: 1}
    assert len(run.looks) == looks


def test_the_times_of_the_frames_count_not_their_number(film: Callable[..., Film]) -> None:
    # guards: --every and slow cameras
    run = film()
    for _ in range(20):
        run.show((100, 100), step=5)
    assert run.looks == [4, 29, 54, 79]


def test_a_newcomer_is_found_at_once(film: Callable[..., Film]) -> None:
    # guards: the second person of a scene that had come to rest, also far from the last look; a third id for a third
    run = film()
    for _ in range(10):
        run.show((100, 100))
    assert run.ids((100, 100), (300, 80)) == {0: 1, 1: 2}
    for _ in range(7):
        run.show((100, 100), (300, 80))
    assert run.ids((100, 100), (300, 80), (400, 180)) == {0: 1, 1: 2, 2: 3}


def test_a_newcomer_in_a_busy_scene_is_found_within_a_second(film: Callable[..., Film]) -> None:
    # guards: looks that find nothing become rare, but never rarer than one a second; motion is no face
    run = film()
    detect = run._detect
    run.analyzer._detector = SimpleNamespace(detect=lambda image, min_face: detect(image)[-1:])  # type: ignore[assignment]
    for frame in range(100):
        # what moves at the right is nothing to the detector
        assert [face.id for face in run.show((100, 100), (300 + 3 * (frame % 40), 80))] == [1]
    assert len(run.looks) < 12
    run.analyzer._detector = SimpleNamespace(detect=detect)  # type: ignore[assignment]
    found = [len(run.show((100, 100), (300 + 3 * (frame % 40), 80))) for frame in range(26)]
    assert found[-1] == 2


def test_a_face_that_goes_is_gone_and_may_come_back(film: Callable[..., Film]) -> None:
    # guards: lost in the very frame, the detector asked at once; back soon: the same id, later: a new one
    run = film()
    for _ in range(5):
        run.show((100, 100))
    assert run.show() == []
    assert run.looks[-1] == run.frame
    for _ in range(10):
        assert run.show() == []
    # waiting costs few looks
    assert len(run.looks) < 9
    assert [run.ids((110, 105)) for _ in range(5)][-1] == {0: 1}
    for _ in range(45):
        run.show()
    assert [run.ids((110, 105)) for _ in range(5)][-1] == {0: 2}


@pytest.mark.parametrize("step", [1, 25])
def test_a_face_that_goes_from_a_plain_ground_is_gone(film: Callable[..., Film], step: int) -> None:
    # guards: records of nobody, where the network finds an average face in a plain picture at every look
    run = film()
    run.analyzer._keypoints._session.run = run._run  # type: ignore[method-assign]
    both = run.ids((100, 100), (300, 100), step=step)
    for _ in range(4):
        assert run.ids((100, 100), (300, 100), step=step) == both
    assert run.ids((300, 100), step=step) == {0: both[1]}
    assert run.looks[-1] == run.frame
    assert run.ids((100, 100), (300, 100), step=step) == both


def test_a_face_that_moves_is_still_itself() -> None:
    # guards: the detector asked in each frame where a face moves fast before a busy ground
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(0, 255, (6, 12)).astype(np.uint8), (480, 240), interpolation=cv2.INTER_CUBIC)
    head = cv2.resize(rng.integers(0, 255, (4, 4)).astype(np.uint8), (60, 60), interpolation=cv2.INTER_CUBIC)
    motion, looks = Motion(), []
    for x in range(0, 400, 31):
        image, box = ground.copy(), (float(x), 80.0, 60.0, 60.0)
        image[80:140, x : x + 60] = head
        motion.cut(image)
        looks.append(motion.look(box))
        assert not differ(looks[0], looks[-1], cut=True)
    motion.cut(ground)
    assert differ(looks[-1], motion.look(box))


def test_who_comes_elsewhere_is_somebody_else(film: Callable[..., Film]) -> None:
    # guards: an id is not handed across the picture, nor to a face of quite another size
    run = film()
    assert run.ids((80, 100)) == {0: 1}
    run.show()
    assert run.ids((380, 100)) == {0: 2}
    run.show()
    assert [[face.id for face in run.show((380, 100, 3 * SIDE))] for _ in range(5)][-1] == [3]


def test_a_cut_takes_no_face_along(film: Callable[..., Film]) -> None:
    # guards: another scene with a face at the same place; an empty one
    run = film()
    for _ in range(5):
        run.show((100, 100))
    assert run.ids((100, 100), scene=1) == {0: 2}
    assert run.ids((102, 100), scene=1) == {0: 2}
    assert run.show(scene=0) == []


def test_a_camera_that_is_turned_takes_its_faces_along(film: Callable[..., Film]) -> None:
    # guards: a picture that changes as a whole because the camera moves, and one that is torn, are no other scene
    run = film(smooth=0.3)
    ground = np.random.default_rng(0).integers(0, 90, (6, 24)).astype(np.uint8)
    ground = np.asarray(cv2.resize(ground, (480, 240), interpolation=cv2.INTER_NEAREST), np.uint8)
    motion = Motion()
    for frame in range(12):
        moved = np.roll(ground, 20 * frame, axis=1)
        assert motion.cut(moved)
        places = (100 + 12.0 * frame, 100.0), (300 + 12.0 * frame, 100.0)
        assert run.ids(*places, ground=moved) == {0: 1, 1: 2}
    assert run.show(ground=np.zeros_like(ground)) == []
    faces = run.show(*places, ground=moved)
    assert sorted(face.id or 0 for face in faces) == [1, 2]
    # what is smoothed goes on
    assert all(face.smoothed and np.abs(face.smoothed.keypoints - face.keypoints).max() > 0 for face in faces)


def test_what_the_detector_no_longer_sees_is_let_go(film: Callable[..., Film]) -> None:
    # guards: points that hold on to a wall: after a few looks in a row, not the first, the face is gone
    run = film()
    for _ in range(24):
        run.show((100, 100))
    run.blind_until = 400.0
    counts = [len(run.show((100, 100))) for _ in range(26)]
    assert counts[0] == 1
    assert counts[-1] == 0


@pytest.mark.parametrize("apart", [10.0, 30.0, 60.0])
def test_people_who_pass_each_other_keep_their_ids(film: Callable[..., Film], apart: float) -> None:
    # guards: crossing ways, one hiding the other for a while
    run = film()
    names = []
    for frame in range(80):
        a, b = (60 + 4.0 * frame, 100.0), (380 - 4.0 * frame, 100.0 + apart)
        if np.hypot(a[0] - b[0], a[1] - b[1]) > 1.2 * SIDE:
            names.append(run.ids(a, b))
        else:
            faces = run.show(a, b)
            assert len({face.id for face in faces}) == len(faces)
    assert sorted(names[0].values()) == [1, 2]
    assert all(name == names[0] for name in names)


@pytest.mark.parametrize(("first", "speed"), [(0, 2.0), (1, 2.0), (0, 1.0)])
def test_two_tracks_never_sit_on_one_face(film: Callable[..., Film], first: int, speed: float) -> None:
    # guards: a face that goes behind another does not live on in it, and does not take its id
    run = film()
    run.show(((170.0, 100.0), (100.0, 100.0))[first])
    front = run.ids((170, 100), (100, 100))[1]
    for step in range(round(100 / speed)):
        faces = run.show((max(100.0, 170 - speed * step), 100), (100, 100))
        assert all(np.hypot(*(centre(a) - centre(b))) > SIDE / 3 for a in faces for b in faces if a is not b)
    assert [face.id for face in faces] == [front]


@pytest.mark.parametrize("front", [0, 1])
def test_points_that_jump_to_a_neighbour_are_not_followed(film: Callable[..., Film], front: int) -> None:
    # guards: of two whose points are found on one face, it stays with the one that was there
    run, places = film(), ((170.0, 100.0), (100.0, 100.0))
    for _ in range(3):
        ids = run.ids(*places)
    run.blind_until = 400
    follow = run.analyzer.follow
    row = [track.id for track in run.tracker._tracks].index(ids[front] or 0)
    run.analyzer.follow = lambda gray, last: follow(gray, last.rows([row, row]))  # type: ignore[method-assign]
    assert run.ids(*places) == {front: ids[front]}


def test_a_detection_goes_to_the_face_that_lies_there(film: Callable[..., Film]) -> None:
    # guards: a followed face that the detector misses does not swallow the newcomer that it finds
    run = film()
    for _ in range(5):
        run.show((100, 100))
    run.blind_until = 200
    assert run.ids((100, 100), (300, 100)) == {0: 1, 1: 2}


def test_side_by_side_through_many_looks(film: Callable[..., Film]) -> None:
    # guards: the detector's boxes go to the right faces, in whatever order they come
    run = film(detect_every=1)
    places: Sequence[Place] = [(60.0 + 75 * i, 120.0) for i in range(5)]
    first = run.ids(*places)
    assert sorted(first.values()) == [1, 2, 3, 4, 5]
    for step in range(20):
        moved = [(x + step, y + (-1) ** i * step) for i, (x, y) in enumerate(places)]
        assert run.ids(*moved) == first


def test_max_faces(film: Callable[..., Film]) -> None:
    # guards: --max-faces: no more than asked for, and no ids that change hands where two are about as large
    run = film(max_faces=1, detect_every=1)
    for extra in (0, 0, 1, 1, 2, 2):
        faces = run.show((100, 100), *[(300, 100, 1.1 * SIDE), (400, 200)][:extra])
        assert [face.id for face in faces] == [1]
    # one that is plainly larger takes the place
    for _ in range(2):
        faces = run.show((100, 100), (300, 100, 1.6 * SIDE))
        assert [face.id for face in faces] == [2]


def test_memory_does_not_grow(film: Callable[..., Film]) -> None:
    # guards: lists that grow with the length of a stream, also where its clock stands still
    run = film(smooth=0.3)
    rng = np.random.default_rng(0)
    for frame in range(150):
        run.frame = run.frame if frame < 80 else 80
        run.show(*[tuple(rng.uniform(40, 200, 2))], step=int(frame < 80))
    assert len(run.tracker._tracks) + len(run.tracker._lost) < 80


def test_smoothing_stands_beside_the_raw_values(film: Callable[..., Film]) -> None:
    # guards: --smooth and --smooth 0, and that a face that was lost for a moment goes on where it was
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


def test_five_emotions(film: Callable[..., Film]) -> None:
    # guards: smoothing over the labels that are in use
    run = film(smooth=0.3, emotions="five")
    for _ in range(3):
        (face,) = run.show((100, 100))
    assert face.smoothed is not None
    assert tuple(face.smoothed.emotion.probabilities) == facexp.FIVE


def test_wrong_settings_are_refused(analyzer: facexp.Analyzer) -> None:
    # guards: settings that make no sense
    with pytest.raises(ValueError, match="detect_every must be None or at least 1, got 0"):
        Tracker(analyzer, detect_every=0)
    with pytest.raises(ValueError, match="smooth must be 0 or more seconds, got -1"):
        Tracker(analyzer, smooth=-1)
    with pytest.raises(ValueError, match="time_ms must be finite, got nan"):
        Tracker(analyzer).track(np.zeros((48, 64), np.uint8), float("nan"))


@pytest.mark.parametrize("shape", [(2000, 1), (1, 70000), (20, 30000)])
def test_very_thin_pictures(analyzer: facexp.Analyzer, shape: tuple[int, int]) -> None:
    # guards: a flat animation or raw frames, which would end the run and all that stands behind them
    tracker = Tracker(analyzer)
    for time_ms in (0, 40):
        assert tracker.track(np.zeros(shape, np.uint8), time_ms) == []
