"""An image goes in, a list of faces comes out: detect, crop, keypoints, align, emotion."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facexp.alignment import Alignment
from facexp.bundle import Bundle, ModelSpec
from facexp.checks import expect_count
from facexp.detector import Box, Detection, Detector
from facexp.errors import DeviceError
from facexp.geometry import Image, Matrix, Picture, Points, compose, cut, invert, square_matrix, to_gray, transform
from facexp.keypoints import MOST_DRIFT, Found, KeypointFinder
from facexp.labels import EMOTIONS
from facexp.session import BACKENDS, Session, devices_to_try
from facexp.types import Emotion, Face, Timings

# A detector that is not sure is asked twice: a face keeps its points when it is framed anew, anything else does not.
# Profiles drift as well, and have scores above this, where the detector alone raises hardly an alarm.
_SURE = 0.8

# without a detector's box a face drifts more. Of FER2013's faces that half of FER+'s voters called no face, half drift
# more than this and are found by no detector; of those that nobody called so, 1.2%
_SETTLED = 2 * MOST_DRIFT
# side in pixels at which the detector looks at a crop, and the room that it needs round a face, in parts of the crop
_LOOKED_AT, _ROOM = 240, 1 / 3

_PRECISION = {"cpu": "int8", "cuda": "exact"}
_PRECISIONS = ("int8", "float16", "float32", "exact")


@dataclass(frozen=True, slots=True)
class AnalyzerOptions:
    """The arguments of `Analyzer`, to be kept, sent to another process and opened there."""

    device: str = "auto"
    threads: int | None = None
    emotions: str | None = None
    labels: str | None = None
    backend: str = "onnxruntime"
    precision: str | None = None
    detector: str | Path | None = None
    bundle: str | Path | None = None
    min_score: float = 0.5
    min_face: float = 0
    max_faces: int | None = None

    def open(self) -> Analyzer:
        """The analyzer; its errors."""
        return Analyzer(**asdict(self))


class Analyzer:
    """Finds the faces of an image with their 15 points and their emotion. Several threads may use it at once."""

    def __init__(
        self,
        device: str = "auto",
        threads: int | None = None,
        emotions: str | None = None,
        *,
        labels: str | None = None,
        backend: str = "onnxruntime",
        precision: str | None = None,
        detector: str | Path | None = None,
        bundle: str | Path | None = None,
        min_score: float = 0.5,
        min_face: float = 0,
        max_faces: int | None = None,
    ) -> None:
        """Load detector and networks and run each once.

        device: "cpu", "cuda", which raises unless the live sessions run on it, or "auto": the best that really runs.
        threads: most threads inside one operator of a network, None leaves it to onnxruntime. One is best where several
        photos are analysed at once (`facexp.pipeline.share_threads`). OpenCV, which decodes and resizes, has one number
        for the whole process: `cv2.setNumThreads`.
        emotions: "seven" or "five" (angry, disgust, sad, happy, surprise: the seven renormalised); None takes all the
        bundle's labels, in ours the seven.
        labels: whose labels the probabilities foretell, an output of the bundle's emotion network: "ferplus", what most
        of ten onlookers say, or "fer2013", what FER2013's file says; None takes the bundle's first, "ferplus" in ours.
        backend: "onnxruntime", or "litert", which runs the bundle's TFLite files on the CPU (the extra `litert`).
        precision: "int8", "float16" or "float32"; "exact" takes of each network the most exact file that the bundle
        has, in ours the keypoints' float32 and the emotion's float16. None takes int8 on the CPU and "exact" on CUDA.
        detector: another YuNet ONNX file. bundle: directory of another model bundle.
        min_score: faces of a lower detector score are left out, 0 to 1; of those below 0.8, too, where the keypoint
        network finds no face. min_face: faces with fewer pixels on the longer side of their box are left out, which
        saves time from about a twentieth of the picture on. max_faces: the largest so many are kept.

        Raises DeviceError, BundleError, DetectorError, or ValueError for an argument out of its range.
        """
        for name, choice, choices in (
            ("emotions", emotions, (*EMOTIONS, None)),
            ("backend", backend, tuple(BACKENDS)),
            ("precision", precision, (*_PRECISIONS, None)),
        ):
            if choice not in choices:
                raise ValueError(f"{name} must be one of {', '.join(filter(None, choices))}, got {choice!r}")
        expect_count("max_faces", max_faces, optional=True)
        expect_count("threads", threads, optional=True)
        if not 0 <= min_face < math.inf:
            raise ValueError(f"min_face must be 0 or more pixels, got {min_face}")
        self._max_faces = max_faces
        self._min_face = min_face
        self._bundle = Bundle.load(bundle)
        self._head = self._bundle.emotion.head(labels)
        known = self._bundle.emotion.labels
        self._labels = EMOTIONS[emotions] if emotions else known
        if lacking := [label for label in self._labels if label not in known]:
            raise ValueError(
                f"emotions {emotions!r} cannot be had from this bundle: its labels are {', '.join(known)}, "
                f"without {', '.join(lacking)}; leave emotions out"
            )
        self._columns = [known.index(label) for label in self._labels]
        self._detector = Detector(detector, min_score=min_score, threads=threads)
        keypoints, self._emotion = open_networks(self._bundle, device, backend, precision, threads)
        self._keypoints = KeypointFinder(keypoints, self._bundle.keypoints)
        self._last = _Last()
        # where an average face's points would put the emotion crop, seen from the keypoints crop
        self._alignment = Alignment.of(self._bundle.keypoints, self._bundle.emotion)

    @property
    def device(self) -> str:
        """Where the networks really run: "cpu" or "cuda". The detector always runs on the CPU."""
        return self._keypoints.device

    @property
    def bundle(self) -> Bundle:
        """The models in use."""
        return self._bundle

    @property
    def labels(self) -> tuple[str, ...]:
        """What the probabilities of a face are about, in their order: labels of the bundle's manifest."""
        return self._labels

    @property
    def timings(self) -> Timings:
        """How long the steps of this thread's last call took; zeros before the first."""
        return self._last.timings

    def analyze(self, image: Picture) -> list[Face]:
        """The faces of a uint8 image, largest box first; [] when there is none.

        The image is (H, W, 3) BGR, (H, W, 4) BGRA, (H, W) or (H, W, 1) gray. Raises ValueError for another array.
        """
        return self._analyze(image, 1, lambda _: image)

    def analyze_reduced(self, image: Picture, reduction: int, decode: Callable[[int], Picture]) -> list[Face]:
        """The faces of a photo of which `image` shows a copy, `reduction` times smaller; in pixels of the photo.

        The detector looks at the copy. Where a face has fewer pixels there than the keypoint network takes, the photo
        is decoded again, no larger than that face needs: `decode` is given 1, 2 or 4. Raises ValueError as `analyze`.
        """
        return self._analyze(image, reduction, decode)

    def _analyze(self, image: Picture, reduction: int, decode: Callable[[int], Picture]) -> list[Face]:
        start = time.perf_counter()
        candidates = self.detect(image, reduction)
        detected = time.perf_counter()
        needed = self._reduction(candidates, reduction)
        if needed < reduction:
            image, candidates = decode(needed), [_enlarged(face, reduction / needed) for face in candidates]
        gray = to_gray(image)
        faces, found = self.confirm(gray, candidates)
        pointed = time.perf_counter()
        emotions = self.read_emotions([gray] * len(faces), found)
        self._last.timings = _timings(start, detected, pointed, time.perf_counter())
        if needed == 1:
            return _faces(faces, found, emotions)
        found = Found([_from_full(matrix, needed) for matrix in found.placed], found.points, found.drift)
        return _faces([_enlarged(face, needed) for face in faces], found, emotions)

    def _reduction(self, candidates: list[Detection], reduction: int) -> int:
        """By how much the photo may be reduced so that each face fills its crop, or 1: at most by `reduction`."""
        spec = self._bundle.keypoints
        sides = [spec.framing.square(face.box).side * reduction for face in candidates[: self._max_faces]]
        while reduction > 1 and any(side < spec.size * reduction for side in sides):
            reduction //= 2
        return reduction

    def analyze_crops(self, crops: Sequence[Picture]) -> list[Face]:
        """One face per uint8 image, in the same order, where each image shows one face that fills it.

        No detector runs: the box is the whole image and the score 1. The arrays are as for `analyze`, of any sizes.
        Raises ValueError, naming the crop's number from 0, for another array, and where `crops` is itself an image.
        """
        start = time.perf_counter()
        grays = _crop_grays(crops)
        found = self._keypoints.find_in_crops(grays)
        pointed = time.perf_counter()
        emotions = self.read_emotions(grays, found)
        self._last.timings = _timings(start, start, pointed, time.perf_counter())
        whole = [Detection((0.0, 0.0, float(gray.shape[1]), float(gray.shape[0])), 1.0) for gray in grays]
        return _faces(whole, found, emotions)

    def shows_face(self, crops: Sequence[Picture]) -> NDArray[np.bool_]:
        """(N,) bool: does each uint8 image, which one face should fill, show a face at all?

        False where the keypoint network cannot settle on points and the detector finds nothing either. The arrays are
        as for `analyze_crops`.
        """
        grays = _crop_grays(crops)
        seen = self._keypoints.find_in_crops(grays).drift <= _SETTLED
        for row in np.flatnonzero(~seen):
            seen[row] = bool(self._detector.detect(_with_room(grays[row])))
        return np.asarray(seen)

    # the steps of `analyze`, for those who do not take all of them in every frame (`facexp.tracking`)

    @property
    def max_faces(self) -> int | None:
        """How many faces of an image are kept; None is all."""
        return self._max_faces

    def detect(self, image: Picture, reduction: int = 1) -> list[Detection]:
        """What the detector alone takes for faces, largest first.

        `reduction`: the image is a copy, so many times smaller, of the one whose pixels `min_face` counts.
        """
        return self._detector.detect(image, self._min_face / reduction)

    def confirm(self, gray: Image, candidates: list[Detection]) -> tuple[list[Detection], Found]:
        """The largest `max_faces` candidates that both detector and keypoint network take for faces."""
        faces, found = self._confirm(gray, candidates[: self._max_faces])
        # seldom is one of the largest no face: only then are the others looked at
        if self._max_faces is not None and len(faces) < min(self._max_faces, len(candidates)):
            return self._confirm(gray, candidates)
        return faces, found

    def _confirm(self, gray: Image, candidates: list[Detection]) -> tuple[list[Detection], Found]:
        framing, size = self._bundle.keypoints.framing, self._bundle.keypoints.size
        squares = [framing.square(face.box) for face in candidates]
        found = self._keypoints.find([gray] * len(squares), [square_matrix(square, size) for square in squares])
        sure = np.array([face.score for face in candidates]) >= _SURE
        rows = np.flatnonzero(sure | (found.drift <= MOST_DRIFT))[: self._max_faces]
        return [candidates[row] for row in rows], found.rows(rows)

    def follow(self, gray: Image, last: Found) -> Found:
        """The points, in the next frame, of faces found in the one before; a drift above MOST_DRIFT: it is gone."""
        return self._keypoints.follow(gray, last)

    def box_of(self, matrix: Matrix, points: Points, aspect: float) -> Box:
        """The box that the detector would draw round a face, by its points: (15, 2) in the crop of the (2, 3) matrix.

        `aspect` is the width over the height of the box that the detector drew.
        """
        return self._bundle.keypoints.framing.box(self._keypoints.middle(matrix, points), aspect)

    def read_emotions(self, grays: list[Image], found: Found) -> list[Emotion]:
        """The emotions of faces whose points were found, each in its own (H, W) image."""
        crops = cut(grays, self._alignment.matrices(found), self._bundle.emotion.size)
        outputs = self._emotion.run(crops)
        return [_emotion(row[self._columns], self._labels) for row in _softmax(outputs[self._head])]


class _Last(threading.local):
    timings = Timings()


def open_networks(
    bundle: Bundle, device: str, backend: str, precision: str | None, threads: int | None
) -> tuple[Session, Session]:
    """Keypoints and emotion sessions on the first device that really runs both; arguments and errors of `Analyzer`."""

    def open_on(hope: str) -> tuple[Session, Session]:
        keypoints, emotion = (
            Session(bundle.read(model, key), model, key, device=hope, threads=threads)
            for model in (bundle.keypoints, bundle.emotion)
            for key in (_key(model, hope, BACKENDS[backend], precision),)
        )
        return keypoints, emotion

    *hopes, last = devices_to_try(device, backend)
    for hope in hopes:
        try:
            return open_on(hope)
        except DeviceError:
            continue
    return open_on(last)


def _key(model: ModelSpec, device: str, form: str, precision: str | None) -> str:
    """Of a model's files of a format the one of that precision, or the one that suits the device and is there."""
    wanted = precision or _PRECISION[device]
    key = f"{wanted}.{form}"
    if wanted == "exact" or (precision is None and key not in model.files):
        return model.exact(form) or key
    return key


def _crop_grays(crops: Sequence[Picture]) -> list[Image]:
    # the rows of an image would pass for images; an array of gray ones, (N, H, W), is a sequence
    if isinstance(crops, np.ndarray) and (crops.ndim == 2 or (crops.ndim == 3 and crops.shape[2] in (1, 3, 4))):
        raise ValueError(f"crops must be a sequence of images, got one image of {crops.shape}: put it into a list")
    grays = []
    for index, crop in enumerate(crops):
        try:
            grays.append(to_gray(crop))
        except ValueError as error:
            raise ValueError(f"crop {index}: {error}") from error
    return grays


def _with_room(gray: Image) -> Image:
    """A crop that a face fills, as the detector can see it: with its border repeated round it, and not too small."""
    height, width = (round(_ROOM * side) for side in gray.shape)
    framed = cv2.copyMakeBorder(gray, height, height, width, width, cv2.BORDER_REPLICATE)
    scale = _LOOKED_AT / max(framed.shape)
    rows, columns = (max(1, round(side * scale)) for side in framed.shape)
    return np.asarray(cv2.resize(framed, (columns, rows), interpolation=cv2.INTER_LINEAR), np.uint8)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    raised = logits.astype(np.float64)
    weights = np.exp(raised - raised.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _emotion(chosen: NDArray[np.float64], labels: tuple[str, ...]) -> Emotion:
    total = float(chosen.sum())
    # five classes of a face that is neutral beyond any doubt: nothing is left to share out
    shares = chosen / total if total > 0 else np.full(len(labels), 1 / len(labels))
    return Emotion(labels[int(shares.argmax())], dict(zip(labels, map(float, shares), strict=True)))


def _faces(found_in: list[Detection], found: Found, emotions: list[Emotion]) -> list[Face]:
    return [
        Face(face.box, face.score, transform(points, invert(matrix)), emotion)
        for face, matrix, points, emotion in zip(found_in, found.placed, found.points, emotions, strict=True)
    ]


def _enlarged(face: Detection, factor: float) -> Detection:
    x, y, width, height = (factor * side for side in face.box)
    return Detection((x, y, width, height), face.score)


def _from_full(matrix: Matrix, reduction: int) -> Matrix:
    """The matrix from a reduced image to a crop as one from the full image: a pixel there is a block of pixels here."""
    offset = (1 / reduction - 1) / 2
    return compose(matrix, np.array([[1 / reduction, 0, offset], [0, 1 / reduction, offset]]))


def _timings(start: float, detected: float, pointed: float, end: float) -> Timings:
    return Timings(1e3 * (detected - start), 1e3 * (pointed - detected), 1e3 * (end - pointed))
