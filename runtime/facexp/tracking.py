"""Faces of a video, each followed by its own keypoints; the detector runs only now and then."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facexp.analyzer import Analyzer
from facexp.checks import expect_count
from facexp.detector import SAME, Box, Detection, overlap, shared
from facexp.geometry import Image, Matrix, Picture, Points, invert, to_gray, transform
from facexp.keypoints import MOST_DRIFT, Found
from facexp.motion import Look, Motion, differ
from facexp.smoothing import Smoother
from facexp.types import Emotion, Face, Timings

SMOOTH_S = 0.3
"""Time constant of the smoothing, in seconds, where none is given."""

# With nothing new the detector looks once in this time. While something moves or a face is missing it looks at once,
# then, as long as it finds nothing new, after pauses that double from the first up to this time, in an empty picture,
# where whoever comes is not to wait, up to a shorter one.
_INTERVAL_MS = 1000.0
_FIRST_PAUSE_MS = 40.0
_EMPTY_PAUSE_MS = 200.0
# so many looks in a row may miss a face that its points still confirm
_MISSES = 3
# a face that was lost is waited for so long, where it was and where it was going
_WAIT_MS = 1500.0
# a face's velocity is the mean over about this time
_VELOCITY_MS = 150.0
# most that are waited for: where time stands still nobody's time is ever over
_WAITING = 64
# a box of the detector is a followed face's own from this overlap (intersection over union) on
_OVERLAP = 1 / 3
# only a face so many times larger takes a followed one's place among the `max_faces`
_LARGER = 1.5


@dataclass(slots=True, eq=False)
class _Track:
    """One face, where it was last found."""

    id: int
    score: float
    aspect: float
    """Width over height of the box that the detector drew."""
    box: Box
    placed: Matrix
    """(2, 3), from image to crop."""
    points: NDArray[np.float32]
    """(15, 2) in the crop."""
    time_ms: float
    look: Look
    """What its box showed."""
    smoother: Smoother | None
    velocity: tuple[float, float] = (0.0, 0.0)
    """Of the box's centre, pixels per millisecond."""
    misses: int = 0
    """How many looks of the detector in a row did not see it."""
    cut: bool = False
    """Whether the scene may have changed since."""


class Tracker:
    """Follows the faces of one video. Make a new one for each; not for use by two threads at once.

    Face by face the result is what `Analyzer.analyze` gives, with an id, and with points and emotion smoothed over time
    beside the raw ones. A followed face's box is drawn round its points, as the detector draws it, and its score is
    the one of the detector's last look at it.
    """

    def __init__(self, analyzer: Analyzer, *, detect_every: int | None = None, smooth: float = SMOOTH_S) -> None:
        """`analyzer` has the networks and the limits (`min_score`, `max_faces`); others may use it between two frames.

        detect_every: the detector looks at every N-th frame; None: once a second. In both cases it also looks at
        once where a face is lost and soon where something moves that is no followed face.
        smooth: the time constant of the smoothing in seconds (`facexp.smoothing`); 0 is none.

        Raises ValueError for detect_every < 1, and where smooth is below 0 or not finite.
        """
        expect_count("detect_every", detect_every, optional=True)
        if not 0 <= smooth < math.inf:
            raise ValueError(f"smooth must be 0 or more seconds, got {smooth}")
        self._analyzer = analyzer
        self._detect_every = detect_every
        self._smooth = smooth
        self._motion = Motion()
        self._tracks: list[_Track] = []
        self._lost: list[_Track] = []
        self._next_id = 1
        self._timings = Timings()
        self._looked_ms: float | None = None
        self._frames = 0
        self._pause_ms = 0.0
        self._size = (0, 0)

    @property
    def timings(self) -> Timings:
        """How long the steps of the last frame took; zeros before the first."""
        return self._timings

    def track(self, image: Picture, time_ms: float) -> list[Face]:
        """The faces of the next frame, largest box first; [] when there is none.

        The image is as for `Analyzer.analyze`; `time_ms` is its time in the video, and grows from frame to frame.
        Raises ValueError for another array and for a time that is not finite.
        """
        if not math.isfinite(time_ms):
            raise ValueError(f"time_ms must be finite, got {time_ms}")
        start = time.perf_counter()
        gray = to_gray(image)
        if gray.shape != self._size:
            # places in the picture are others now
            self._tracks, self._lost, self._size = [], [], gray.shape
        if self._motion.cut(gray):
            self._looked_ms = None
            for track in (*self._tracks, *self._lost):
                track.cut = True
        self._lost = [track for track in self._lost if 0 <= time_ms - track.time_ms <= _WAIT_MS][-_WAITING:]
        urgent = self._follow(gray, time_ms)
        detecting = 0.0
        if self._looks(urgent, time_ms):
            before = time.perf_counter()
            candidates = self._analyzer.detect(image)
            detecting = time.perf_counter() - before
            self._take(gray, candidates, time_ms)
        pointed = time.perf_counter()
        self._tracks.sort(key=lambda track: -_area(track.box))
        found = _found(self._tracks)
        emotions = self._analyzer.read_emotions([gray] * len(self._tracks), found)
        end = time.perf_counter()
        self._timings = Timings(1e3 * detecting, 1e3 * (pointed - start - detecting), 1e3 * (end - pointed))
        return [_face(track, emotion, time_ms) for track, emotion in zip(self._tracks, emotions, strict=True)]

    def _follow(self, gray: Image, time_ms: float) -> bool:
        """Find the followed faces in this frame; whether one is lost, or may be."""
        if not self._tracks:
            return False
        found = self._analyzer.follow(gray, _found(self._tracks))
        height, width = gray.shape
        strays: list[float] = []
        boxes = []
        for track, matrix, points in zip(self._tracks, found.placed, found.points, strict=True):
            boxes.append(self._analyzer.box_of(matrix, points, track.aspect))
            strays.append(_stray(track, boxes[-1], time_ms))
        kept: list[_Track] = []
        urgent = False
        # where two have come to lie on one face, it is the one's whose way leads there
        for row in np.argsort(strays):
            track, box = self._tracks[row], boxes[row]
            x, y = _centre(box)
            here = found.drift[row] <= MOST_DRIFT and 0 <= x < width and 0 <= y < height
            if here and not any(shared(box, other.box) > SAME for other in kept):
                look = self._motion.look(box)
                if differ(track.look, look, track.cut):
                    urgent = True
                    if track.cut:
                        # who stands there now is somebody else, unless the face is still to be seen elsewhere
                        self._lost.append(track)
                        continue
                    # in a plain picture the network finds an average face at each look: the detector's one look decides
                    track.misses = _MISSES - 1
                _move(track, box, found.placed[row], found.points[row], look, time_ms)
                kept.append(track)
            else:
                self._lost.append(track)
                urgent = True
        self._tracks = kept
        return urgent

    def _looks(self, urgent: bool, time_ms: float) -> bool:
        """Whether the detector looks at this frame."""
        self._frames += 1
        if urgent or self._looked_ms is None:
            return True
        passed = time_ms - self._looked_ms
        due = passed < 0 or self._due(passed)
        if passed < self._pause_ms and not due:
            return False
        missing = self._lost or any(track.misses for track in self._tracks)
        if missing or self._motion.newcomer(track.box for track in self._tracks):
            return True
        if due:
            # all has been quiet
            self._pause_ms = 0.0
        return due

    def _due(self, passed_ms: float) -> bool:
        return passed_ms >= _INTERVAL_MS if self._detect_every is None else self._frames >= self._detect_every

    def _take(self, gray: Image, candidates: list[Detection], time_ms: float) -> None:
        """Check the followed faces against the detector's, and take on those that are new."""
        self._looked_ms, self._frames = time_ms, 0
        rest = self._match(candidates)
        new = self._start(gray, rest, time_ms)
        self._motion.seen(track.box for track in self._tracks)
        if new:
            self._pause_ms = 0.0
        else:
            last = _INTERVAL_MS if self._tracks else _EMPTY_PAUSE_MS
            self._pause_ms = min(max(2 * self._pause_ms, _FIRST_PAUSE_MS), last)

    def _match(self, candidates: list[Detection]) -> list[Detection]:
        """Give each followed face the detector's score, and return what the detector found beside them."""
        rest, unseen = list(candidates), list(self._tracks)
        pairs = [(overlap(track.box, face.box), track, face) for track in self._tracks for face in candidates]
        for common, track, face in sorted(pairs, key=lambda pair: -pair[0]):
            if common >= _OVERLAP and face in rest and track in unseen:
                rest.remove(face)
                unseen.remove(track)
                track.score, track.aspect, track.misses = face.score, _aspect(face.box), 0
        for track in unseen:
            track.misses += 1
            # one that slipped to a part of a face gives way to the detector's box
            if track.misses >= _MISSES or any(shared(track.box, face.box) > SAME for face in rest):
                self._lost.append(track)
        kept = [track for track in self._tracks if track not in self._lost]
        self._tracks = kept
        return [face for face in rest if not any(shared(face.box, track.box) > SAME for track in kept)]

    def _start(self, gray: Image, candidates: list[Detection], time_ms: float) -> bool:
        """Follow the candidates that are faces from now on; whether there is one."""
        most = self._analyzer.max_faces
        if most is not None and len(self._tracks) >= most:
            least = _LARGER * min(_area(track.box) for track in self._tracks)
            candidates = [face for face in candidates if _area(face.box) > least]
        faces, found = self._analyzer.confirm(gray, candidates)
        pairs = []
        for face, matrix, points in zip(faces, found.placed, found.points, strict=True):
            aspect = _aspect(face.box)
            # not the detector's own box, which would jump in the next frame
            box = self._analyzer.box_of(matrix, points, aspect)
            track = _Track(0, face.score, aspect, box, matrix, points, time_ms, self._motion.look(box), None)
            pairs.append((_distance(box, face.box), track))
        new: list[_Track] = []
        # where the points of a hidden face have gone to the one in front, they are that one's
        for _, track in sorted(pairs, key=lambda pair: pair[0]):
            if not any(shared(track.box, other.box) > SAME for other in (*self._tracks, *new)):
                new.append(track)
        self._tracks += self._named(new)
        if most is not None:
            self._tracks = sorted(self._tracks, key=lambda track: -_area(track.box))[:most]
        return bool(new)

    def _named(self, new: list[_Track]) -> list[_Track]:
        """The new faces, each under the id of the nearest that was lost there, or under one of its own."""
        pairs = [(_off_way(old, face), old, face) for old in self._lost for face in new]
        named: dict[int, _Track] = {}
        for distance, old, face in sorted(pairs, key=lambda pair: pair[0]):
            stranger = old.cut and differ(old.look, face.look, cut=True)
            if distance < 1 and not stranger and id(face) not in named and old in self._lost:
                self._lost.remove(old)
                _move(old, face.box, face.placed, face.points, face.look, face.time_ms)
                old.score, old.aspect, old.misses = face.score, face.aspect, 0
                named[id(face)] = old
        for face in new:
            if id(face) not in named:
                face.id, self._next_id = self._next_id, self._next_id + 1
                face.smoother = Smoother(self._smooth) if self._smooth else None
        return [named.get(id(face), face) for face in new]


def _found(tracks: list[_Track]) -> Found:
    points = np.array([track.points for track in tracks], np.float32).reshape(-1, 15, 2)
    return Found([track.placed for track in tracks], points, np.zeros(len(tracks)))


def _face(track: _Track, emotion: Emotion, time_ms: float) -> Face:
    points: Points = transform(track.points, invert(track.placed))
    smoothed = None if track.smoother is None else track.smoother(points, emotion, time_ms)
    return Face(track.box, track.score, points, emotion, track.id, smoothed)


def _move(track: _Track, box: Box, placed: Matrix, points: NDArray[np.float32], look: Look, time_ms: float) -> None:
    passed = time_ms - track.time_ms
    if passed > 0:
        x, y = np.subtract(_centre(box), _centre(_ahead(track, time_ms))) / passed
        weight = passed / (passed + _VELOCITY_MS)
        track.velocity = (track.velocity[0] + weight * float(x), track.velocity[1] + weight * float(y))
    track.box, track.placed, track.points, track.time_ms = box, placed, points, time_ms
    track.look, track.cut = look, False


def _ahead(track: _Track, time_ms: float) -> Box:
    """Where a face's box will be at this time if it moves on as it did."""
    passed = min(max(time_ms - track.time_ms, 0.0), _WAIT_MS)
    x, y, width, height = track.box
    return x + passed * track.velocity[0], y + passed * track.velocity[1], width, height


def _off_way(lost: _Track, face: _Track) -> float:
    """How far a face lies from the way that a lost one may have gone, which may have stopped on it, in sides."""
    ahead = _ahead(lost, face.time_ms)
    way = np.subtract(_centre(ahead), _centre(lost.box))
    gone = np.dot(way, np.subtract(_centre(face.box), _centre(lost.box))) / max(float(np.dot(way, way)), 1e-9)
    x, y = np.clip(gone, 0, 1) * way
    return _distance((lost.box[0] + float(x), lost.box[1] + float(y), lost.box[2], lost.box[3]), face.box)


def _stray(track: _Track, box: Box, time_ms: float) -> float:
    """How far a box lies from where the face was on its way to, in sides of the box."""
    return math.dist(_centre(box), _centre(_ahead(track, time_ms))) / math.sqrt(_area(track.box))


def _distance(a: Box, b: Box) -> float:
    """Between the centres of two boxes, in sides of the larger; infinite where one is more than twice as large."""
    small, large = sorted(math.sqrt(_area(box)) for box in (a, b))
    return math.dist(_centre(a), _centre(b)) / large if large <= 2 * small else math.inf


def _area(box: Box) -> float:
    return box[2] * box[3]


def _aspect(box: Box) -> float:
    return box[2] / box[3]


def _centre(box: Box) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2
