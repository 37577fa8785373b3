"""Track the faces of a video: each is followed by its own keypoints, and the detector runs only occasionally."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facexp.analyzer import Analyzer
from facexp.checks import expect_count
from facexp.detector import DUPLICATE_OVERLAP, Box, Detection, iou, overlap_of_smaller
from facexp.geometry import Image, Matrix, Picture, Points, invert, to_gray, transform
from facexp.keypoints import MAX_DRIFT, FoundKeypoints
from facexp.motion import Appearance, Motion, differ
from facexp.reading import NOMINAL_FPS
from facexp.smoothing import Smoother
from facexp.types import Emotion, Face, Timings

SMOOTH_S = 0.3
"""Default time constant of the smoothing, in seconds."""

# In a quiet scene the detector runs once in this interval. While something moves or a face is missing, it runs at once,
# and then, as long as it finds no new face, after pauses that double from the first pause up to this interval. In an
# empty picture they double up to a shorter maximum, so that a new face does not have to wait long.
_INTERVAL_MS = 1000.0
_FIRST_PAUSE_MS = 40.0
_MAX_EMPTY_PAUSE_MS = 200.0
# a face that its points still confirm is lost when this many detector runs in a row have missed it
_MAX_MISSES = 3
# for this long a lost face can be recognised again, where it was or where it was moving to
_KEEP_LOST_MS = 1500.0
# a face's velocity is a mean over about this time
_VELOCITY_MS = 150.0
# most lost faces that are remembered: needed where time stamps hardly advance, so that none expires
_MAX_LOST = 64
# from this intersection over union on, a box of the detector belongs to a tracked face
_MIN_IOU = 1 / 3
# with `max_faces` reached, a new face is accepted only if its area exceeds that of the smallest track by this factor
_REPLACE_RATIO = 1.5


@dataclass(slots=True, eq=False)
class _Track:
    """One tracked face, as it was last found."""

    id: int
    score: float
    aspect: float
    """Width over height of the detector's box."""
    box: Box
    matrix: Matrix
    """(2, 3) matrix from image to crop."""
    points: NDArray[np.float32]
    """(15, 2) keypoints in pixels of the crop."""
    time_ms: float
    """Time of the frame in which it was last found."""
    appearance: Appearance
    """What its box showed in that frame: (4, 4) gray levels."""
    smoother: Smoother | None
    velocity: tuple[float, float] = (0.0, 0.0)
    """Velocity of the box's centre, in pixels per millisecond."""
    misses: int = 0
    """How many detector runs in a row did not find it."""
    cut: bool = False
    """Whether the scene may have changed since it was last found."""


class Tracker:
    """Tracks the faces of one video. Make a new one for each video; two threads must not use it at once.

    Each face is what `Analyzer.analyze` gives, with an id, and with smoothed keypoints and emotion in addition to the
    raw ones. The box of a tracked face is derived from its keypoints, as the detector would draw it; its score is that
    of the last detector run that found it.
    """

    def __init__(self, analyzer: Analyzer, *, detect_every: int | None = None, smooth: float = SMOOTH_S) -> None:
        """Create a tracker without faces.

        analyzer: holds the networks and the limits (`min_score`, `min_face`, `max_faces`); others may use it between
        frames.
        detect_every: run the detector on every N-th frame; None: once a second. In both cases it also runs at once if a
        face is lost, and soon if something moves that is not a tracked face.
        smooth: time constant of the smoothing in seconds (`facexp.smoothing`); 0 turns it off.

        Raises ValueError for detect_every < 1, and if smooth is negative or not finite.
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
        self._detected_ms: float | None = None
        self._frames = 0
        self._pause_ms = 0.0
        self._size = (0, 0)
        self._stamp_ms: float | None = None
        self._delay_ms = 0.0

    @property
    def timings(self) -> Timings:
        """How long the steps of the last frame took; zeros before the first frame."""
        return self._timings

    def track(self, image: Picture, time_ms: float) -> list[Face]:
        """Return the faces of the next frame, largest box first; [] if there are none.

        `image` is as for `Analyzer.analyze`; `time_ms` is its time in the video in milliseconds and increases from
        frame to frame. Where it stands still, 30 frames a second are assumed: OpenCV gives all frames of a raw stream
        or an image sequence the time 0. Raises ValueError for an invalid image and for a time that is not finite.
        """
        if not math.isfinite(time_ms):
            raise ValueError(f"time_ms must be finite, got {time_ms}")
        start = time.perf_counter()
        gray = to_gray(image)
        if time_ms == self._stamp_ms:
            self._delay_ms += 1000 / NOMINAL_FPS
        self._stamp_ms, time_ms = time_ms, time_ms + self._delay_ms
        if gray.shape != self._size:
            # positions in the old frame size are meaningless now
            self._tracks, self._lost, self._motion, self._size = [], [], Motion(), gray.shape
        if self._motion.cut(gray):
            self._detected_ms = None
            for track in (*self._tracks, *self._lost):
                track.cut = True
        self._lost = [track for track in self._lost if 0 <= time_ms - track.time_ms <= _KEEP_LOST_MS][-_MAX_LOST:]
        urgent = self._follow(gray, time_ms)
        detect_s = 0.0
        if self._should_detect(urgent, time_ms):
            before = time.perf_counter()
            candidates = self._analyzer.detect(image)
            detect_s = time.perf_counter() - before
            self._update(gray, candidates, time_ms)
        located = time.perf_counter()
        self._tracks.sort(key=lambda track: -_area(track.box))
        # the detector, which applies this limit, has not run since some faces became smaller
        tracks = [track for track in self._tracks if max(track.box[2:]) >= self._analyzer.min_face]
        emotions = self._analyzer.read_emotions([gray] * len(tracks), _keypoints_of(tracks))
        end = time.perf_counter()
        self._timings = Timings(1e3 * detect_s, 1e3 * (located - start - detect_s), 1e3 * (end - located))
        return [_face(track, emotion, time_ms) for track, emotion in zip(tracks, emotions, strict=True)]

    def _follow(self, gray: Image, time_ms: float) -> bool:
        """Find the tracked faces in this frame, and return whether one is lost, or may be."""
        if not self._tracks:
            return False
        found = self._analyzer.follow(gray, _keypoints_of(self._tracks))
        height, width = gray.shape
        deviations: list[float] = []
        boxes = []
        for track, matrix, points in zip(self._tracks, found.matrices, found.points, strict=True):
            boxes.append(self._analyzer.box_of(matrix, points, track.aspect))
            deviations.append(_deviation(track, boxes[-1], time_ms))
        kept: list[_Track] = []
        urgent = False
        # if two tracks have ended up on the same face, the one whose predicted position is nearer keeps it
        for row in np.argsort(deviations):
            track, box = self._tracks[row], boxes[row]
            x, y = _centre(box)
            here = found.drift[row] <= MAX_DRIFT and 0 <= x < width and 0 <= y < height
            if here and not any(overlap_of_smaller(box, other.box) > DUPLICATE_OVERLAP for other in kept):
                appearance = self._motion.appearance(box)
                if differ(track.appearance, appearance, track.cut):
                    urgent = True
                    if track.cut:
                        # after a cut this is another person; the lost face may still be found elsewhere in the frame
                        self._lost.append(track)
                        continue
                    # on a plain background the network keeps finding an average face, so one missed detector run is
                    # enough to drop the track
                    track.misses = _MAX_MISSES - 1
                _move(track, box, found.matrices[row], found.points[row], appearance, time_ms)
                kept.append(track)
            else:
                self._lost.append(track)
                urgent = True
        self._tracks = kept
        return urgent

    def _should_detect(self, urgent: bool, time_ms: float) -> bool:
        """Return whether to run the detector on this frame."""
        self._frames += 1
        if urgent or self._detected_ms is None:
            return True
        passed_ms = time_ms - self._detected_ms
        due = passed_ms < 0 or self._due(passed_ms)
        if passed_ms < self._pause_ms and not due:
            return False
        missing = self._lost or any(track.misses for track in self._tracks)
        if missing or self._motion.has_newcomer(track.box for track in self._tracks):
            return True
        if due:
            # nothing moved and no face is missing
            self._pause_ms = 0.0
        return due

    def _due(self, passed_ms: float) -> bool:
        return passed_ms >= _INTERVAL_MS if self._detect_every is None else self._frames >= self._detect_every

    def _update(self, gray: Image, candidates: list[Detection], time_ms: float) -> None:
        """Compare the tracked faces with the detector's, and start tracks for new faces."""
        self._detected_ms, self._frames = time_ms, 0
        rest = self._match(candidates)
        new = self._add_tracks(gray, rest, time_ms)
        self._motion.note_detection(track.box for track in self._tracks)
        if new:
            self._pause_ms = 0.0
        else:
            max_pause_ms = _INTERVAL_MS if self._tracks else _MAX_EMPTY_PAUSE_MS
            self._pause_ms = min(max(2 * self._pause_ms, _FIRST_PAUSE_MS), max_pause_ms)

    def _match(self, candidates: list[Detection]) -> list[Detection]:
        """Match the detector's boxes to the tracks, which take over their scores, and return those that match none."""
        rest, unseen = list(candidates), list(self._tracks)
        pairs = [(iou(track.box, face.box), track, face) for track in self._tracks for face in candidates]
        for value, track, face in sorted(pairs, key=lambda pair: -pair[0]):
            if value >= _MIN_IOU and face in rest and track in unseen:
                rest.remove(face)
                unseen.remove(track)
                track.score, track.aspect, track.misses = face.score, _aspect(face.box), 0
        for track in unseen:
            track.misses += 1
            # a track that has slipped to a part of a face gives way to the detector's box
            if track.misses >= _MAX_MISSES or any(
                overlap_of_smaller(track.box, face.box) > DUPLICATE_OVERLAP for face in rest
            ):
                self._lost.append(track)
        kept = [track for track in self._tracks if track not in self._lost]
        self._tracks = kept
        return [
            face
            for face in rest
            if not any(overlap_of_smaller(face.box, track.box) > DUPLICATE_OVERLAP for track in kept)
        ]

    def _add_tracks(self, gray: Image, candidates: list[Detection], time_ms: float) -> bool:
        """Start tracks for the candidates that the keypoint network confirms, and return whether there is one."""
        max_faces = self._analyzer.max_faces
        if max_faces is not None and len(self._tracks) >= max_faces:
            min_area = _REPLACE_RATIO * min(_area(track.box) for track in self._tracks)
            candidates = [face for face in candidates if _area(face.box) > min_area]
        faces, found = self._analyzer.confirm(gray, candidates)
        pairs = []
        for face, matrix, points in zip(faces, found.matrices, found.points, strict=True):
            aspect = _aspect(face.box)
            # the box comes from the points as in all later frames: the detector's own box would jump in the next frame
            box = self._analyzer.box_of(matrix, points, aspect)
            track = _Track(0, face.score, aspect, box, matrix, points, time_ms, self._motion.appearance(box), None)
            pairs.append((_distance(box, face.box), track))
        new: list[_Track] = []
        # if the points of a partly hidden face have moved to the face in front, only the face in front is kept
        for _, track in sorted(pairs, key=lambda pair: pair[0]):
            if not any(overlap_of_smaller(track.box, other.box) > DUPLICATE_OVERLAP for other in (*self._tracks, *new)):
                new.append(track)
        self._tracks += self._with_ids(new)
        if max_faces is not None:
            self._tracks = sorted(self._tracks, key=lambda track: -_area(track.box))[:max_faces]
        return bool(new)

    def _with_ids(self, new: list[_Track]) -> list[_Track]:
        """Return the tracks of the new faces: that of the nearest face lost there, or a new one with its own id."""
        pairs = [(_path_distance(old, face), old, face) for old in self._lost for face in new]
        resumed: dict[int, _Track] = {}
        for distance, old, face in sorted(pairs, key=lambda pair: pair[0]):
            other_person = old.cut and differ(old.appearance, face.appearance, cut=True)
            if distance < 1 and not other_person and id(face) not in resumed and old in self._lost:
                self._lost.remove(old)
                _move(old, face.box, face.matrix, face.points, face.appearance, face.time_ms)
                old.score, old.aspect, old.misses = face.score, face.aspect, 0
                resumed[id(face)] = old
        for face in new:
            if id(face) not in resumed:
                face.id, self._next_id = self._next_id, self._next_id + 1
                face.smoother = Smoother(self._smooth) if self._smooth else None
        return [resumed.get(id(face), face) for face in new]


def _keypoints_of(tracks: list[_Track]) -> FoundKeypoints:
    points = np.array([track.points for track in tracks], np.float32).reshape(-1, 15, 2)
    return FoundKeypoints([track.matrix for track in tracks], points, np.zeros(len(tracks)))


def _face(track: _Track, emotion: Emotion, time_ms: float) -> Face:
    points: Points = transform(track.points, invert(track.matrix))
    smoothed = None if track.smoother is None else track.smoother(points, emotion, time_ms)
    return Face(track.box, track.score, points, emotion, track.id, smoothed)


def _move(
    track: _Track, box: Box, matrix: Matrix, points: NDArray[np.float32], appearance: Appearance, time_ms: float
) -> None:
    """Set where the face was found in a frame, and update its velocity."""
    passed_ms = time_ms - track.time_ms
    if passed_ms > 0:
        x, y = np.subtract(_centre(box), _centre(_predicted(track, time_ms))) / passed_ms
        weight = passed_ms / (passed_ms + _VELOCITY_MS)
        track.velocity = (track.velocity[0] + weight * float(x), track.velocity[1] + weight * float(y))
    track.box, track.matrix, track.points, track.time_ms = box, matrix, points, time_ms
    track.appearance, track.cut = appearance, False


def _predicted(track: _Track, time_ms: float) -> Box:
    """Return where a face's box is at this time if its velocity has not changed."""
    passed_ms = min(max(time_ms - track.time_ms, 0.0), _KEEP_LOST_MS)
    x, y, width, height = track.box
    return x + passed_ms * track.velocity[0], y + passed_ms * track.velocity[1], width, height


def _path_distance(lost: _Track, face: _Track) -> float:
    """Return how far a face is from the predicted path of a lost one, in the unit of `_distance`.

    The lost face may have stopped anywhere on this path.
    """
    predicted = _predicted(lost, face.time_ms)
    path = np.subtract(_centre(predicted), _centre(lost.box))
    share = np.dot(path, np.subtract(_centre(face.box), _centre(lost.box))) / max(float(np.dot(path, path)), 1e-9)
    x, y = np.clip(share, 0, 1) * path
    return _distance((lost.box[0] + float(x), lost.box[1] + float(y), lost.box[2], lost.box[3]), face.box)


def _deviation(track: _Track, box: Box, time_ms: float) -> float:
    """Return how far a box is from the face's predicted position, in sides (root of the area) of its last box."""
    return math.dist(_centre(box), _centre(_predicted(track, time_ms))) / math.sqrt(_area(track.box))


def _distance(a: Box, b: Box) -> float:
    """Return the distance between the centres of two boxes, in sides (root of the area) of the larger box.

    It is infinite if the larger box's side is more than twice that of the smaller.
    """
    small, large = sorted(math.sqrt(_area(box)) for box in (a, b))
    return math.dist(_centre(a), _centre(b)) / large if large <= 2 * small else math.inf


def _area(box: Box) -> float:
    return box[2] * box[3]


def _aspect(box: Box) -> float:
    return box[2] / box[3]


def _centre(box: Box) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2
