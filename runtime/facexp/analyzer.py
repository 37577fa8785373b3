"""Analyse an image: detect faces, crop them, find keypoints, align, classify the emotion."""

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
from facexp.keypoints import MAX_DRIFT, FoundKeypoints, KeypointFinder
from facexp.labels import EMOTIONS
from facexp.session import BACKENDS, Session, devices_to_try
from facexp.types import Emotion, Face, Timings

# Detections below this score are kept only if the keypoint network confirms them: a face keeps its keypoints when its
# crop is placed again, anything else does not. Profiles drift too, but have scores above this, at which the detector
# has almost no false positives.
_CONFIDENT_SCORE = 0.8

# A face drifts more in a crop that no detector placed. Of the FER2013 crops that half of FER+'s voters called "not a
# face", half drift more than this and are not found by the detector; of those that no voter called so, 1.2%.
_MAX_CROP_DRIFT = 2 * MAX_DRIFT
# A crop that a face fills is prepared for the detector: with a margin of this share of the crop on each side, and
# resized to this many pixels on the longer side.
_DETECTOR_SIDE, _MARGIN = 240, 1 / 3

_DEFAULT_PRECISION = {"cpu": "int8", "cuda": "exact"}
_PRECISIONS = ("int8", "float16", "float32", "exact")


@dataclass(frozen=True, slots=True)
class AnalyzerOptions:
    """The arguments of `Analyzer`: they can be stored, or sent to another process that opens the analyzer."""

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
        """Return a new analyzer. Raises the errors of `Analyzer`."""
        return Analyzer(**asdict(self))


class Analyzer:
    """Finds the faces of an image with their 15 keypoints and their emotion. Several threads may use it at once."""

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
        """Load the detector and the networks, and run each once.

        device: "cpu"; "cuda", which raises DeviceError unless the live sessions run on it; or "auto", the best device
        that really runs.
        threads: upper bound of the threads inside one operator of a network; None leaves it to onnxruntime. 1 is best
        if several photos are analysed at once (`facexp.pipeline.share_threads`). OpenCV, which decodes and resizes, has
        one setting for the whole process: `cv2.setNumThreads`.
        emotions: "seven" or "five" (angry, disgust, sad, happy, surprise: the seven renormalised); None uses all labels
        of the bundle, which are the seven in the shipped one.
        labels: the labelling that the probabilities predict, an output of the bundle's emotion network: "ferplus", what
        most of ten annotators say, or "fer2013", the label in FER2013's file. None uses the bundle's first output,
        "ferplus" in the shipped one.
        backend: "onnxruntime", or "litert", which runs the bundle's TFLite files on the CPU (the extra `litert`).
        precision: "int8", "float16" or "float32"; "exact" uses the most exact file that the bundle has of each network,
        in the shipped one float32 for keypoints and float16 for emotion. None uses int8 on the CPU, or the most exact
        file of a network without int8, and "exact" on CUDA.
        detector: path of another YuNet ONNX file. bundle: directory of another model bundle.
        min_score: drop faces with a lower detector score, 0 to 1. Faces with a score below 0.8 are also dropped if the
        keypoint network does not confirm them.
        min_face: drop faces with fewer pixels on the longer side of their box; values above about 1/20 of the picture
        also save time.
        max_faces: keep only the N largest faces; None keeps all.

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
        if missing := [label for label in self._labels if label not in known]:
            raise ValueError(
                f"emotions {emotions!r} is not available in this bundle: its labels are {', '.join(known)}, "
                f"without {', '.join(missing)}; leave emotions out"
            )
        self._columns = [known.index(label) for label in self._labels]
        self._detector = Detector(detector, min_score=min_score, threads=threads)
        keypoints, self._emotion = open_networks(self._bundle, device, backend, precision, threads)
        self._keypoints = KeypointFinder(keypoints, self._bundle.keypoints)
        self._last = _LastCall()
        self._alignment = Alignment.of(self._bundle.keypoints, self._bundle.emotion)

    @property
    def sessions(self) -> tuple[Session, Session]:
        """The sessions of the keypoint and of the emotion network, for callers that also run these alone."""
        return self._keypoints.session, self._emotion

    @property
    def device(self) -> str:
        """Where the networks really run: "cpu" or "cuda". The detector always runs on the CPU."""
        return self._emotion.device

    @property
    def bundle(self) -> Bundle:
        """The model bundle in use."""
        return self._bundle

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotion labels of a face's probabilities, in the same order; all are labels of the bundle's manifest."""
        return self._labels

    @property
    def timings(self) -> Timings:
        """How long the steps of this thread's last `analyze...` call took; zeros before the first call."""
        return self._last.timings

    def analyze(self, image: Picture) -> list[Face]:
        """Return the faces of a uint8 image, largest box first; an empty list if there are none.

        The image is (H, W, 3) BGR, (H, W, 4) BGRA, (H, W) or (H, W, 1) gray. Raises ValueError for any other array.
        """
        return self.analyze_reduced(image, 1, lambda _: image)

    def analyze_reduced(self, image: Picture, reduction: int, decode: Callable[[int], Picture]) -> list[Face]:
        """Return the faces of a photo, in pixels of the photo, given a copy of it that is `reduction` times smaller.

        The detector runs on the copy, `image`. If a face has fewer pixels there than the keypoint network's crop, the
        photo is decoded again, no larger than that face needs: `decode(1)`, `decode(2)` or `decode(4)` returns it at
        that reduction. Raises ValueError as `analyze` does.
        """
        start = time.perf_counter()
        candidates = self.detect(image, reduction)
        detected = time.perf_counter()
        needed = self._reduction(candidates, reduction)
        if needed < reduction:
            image, candidates = decode(needed), [_scaled_up(face, reduction / needed) for face in candidates]
        gray = to_gray(image)
        faces, found = self.confirm(gray, candidates)
        keypoints_done = time.perf_counter()
        emotions = self.read_emotions([gray] * len(faces), found)
        self._last.timings = _timings(start, detected, keypoints_done, time.perf_counter())
        if needed == 1:
            return _faces(faces, found, emotions)
        found = FoundKeypoints([_from_full(matrix, needed) for matrix in found.matrices], found.points, found.drift)
        return _faces([_scaled_up(face, needed) for face in faces], found, emotions)

    def _reduction(self, candidates: list[Detection], reduction: int) -> int:
        """Return the largest reduction, up to `reduction`, at which each face fills its keypoint crop, or 1."""
        spec = self._bundle.keypoints
        sides = [spec.framing.square(face.box).side * reduction for face in candidates[: self._max_faces]]
        while reduction > 1 and any(side < spec.size * reduction for side in sides):
            reduction //= 2
        return reduction

    def analyze_crops(self, crops: Sequence[Picture]) -> list[Face]:
        """Return one face per uint8 image, in the same order; each image shows one face that fills it.

        The detector does not run: the box is the whole image and the score 1. The arrays are as for `analyze`, of any
        sizes. Raises ValueError, naming the crop's index from 0, for any other array, and if `crops` is one image.
        """
        start = time.perf_counter()
        grays = _crop_grays(crops)
        found = self._keypoints.find_in_crops(grays)
        keypoints_done = time.perf_counter()
        emotions = self.read_emotions(grays, found)
        self._last.timings = _timings(start, start, keypoints_done, time.perf_counter())
        whole = [Detection((0.0, 0.0, float(gray.shape[1]), float(gray.shape[0])), 1.0) for gray in grays]
        return _faces(whole, found, emotions)

    def shows_face(self, crops: Sequence[Picture]) -> NDArray[np.bool_]:
        """Return, as (N,) bool, whether each uint8 image, which one face should fill, shows a face at all.

        False if the keypoint network finds no stable keypoints and the detector finds no face either. The arrays are as
        for `analyze_crops`.
        """
        grays = _crop_grays(crops)
        is_face = self._keypoints.find_in_crops(grays).drift <= _MAX_CROP_DRIFT
        for row in np.flatnonzero(~is_face):
            is_face[row] = bool(self._detector.detect(_with_margin(grays[row])))
        return np.asarray(is_face)

    # the single steps of `analyze`, for callers that skip some of them in most frames (`facexp.tracking`)

    @property
    def max_faces(self) -> int | None:
        """How many faces of an image are kept at most; None: all."""
        return self._max_faces

    @property
    def min_face(self) -> float:
        """The fewest pixels that the longer side of a face's box has; 0: all faces are kept."""
        return self._min_face

    def detect(self, image: Picture, reduction: int = 1) -> list[Detection]:
        """Return the detector's faces, not yet confirmed by the keypoint network, largest first.

        `reduction`: how many times smaller the image is than the photo; `min_face` counts pixels of the photo.
        """
        return self._detector.detect(image, self._min_face / reduction)

    def confirm(self, gray: Image, candidates: list[Detection]) -> tuple[list[Detection], FoundKeypoints]:
        """Return the candidates that are faces, with their keypoints: at most the `max_faces` largest.

        A face has a high detector score, or keypoints that the keypoint network confirms.
        """
        faces, found = self._confirm(gray, candidates[: self._max_faces])
        # it is rare that one of the largest is not a face: only then check the others too
        if self._max_faces is not None and len(faces) < min(self._max_faces, len(candidates)):
            return self._confirm(gray, candidates)
        return faces, found

    def _confirm(self, gray: Image, candidates: list[Detection]) -> tuple[list[Detection], FoundKeypoints]:
        framing, size = self._bundle.keypoints.framing, self._bundle.keypoints.size
        squares = [framing.square(face.box) for face in candidates]
        found = self._keypoints.find([gray] * len(squares), [square_matrix(square, size) for square in squares])
        confident = np.array([face.score for face in candidates]) >= _CONFIDENT_SCORE
        rows = np.flatnonzero(confident | (found.drift <= MAX_DRIFT))[: self._max_faces]
        return [candidates[row] for row in rows], found.rows(rows)

    def follow(self, gray: Image, last: FoundKeypoints) -> FoundKeypoints:
        """Return the keypoints, in the next frame, of the faces found in the last one.

        A face with a drift above MAX_DRIFT is lost.
        """
        return self._keypoints.follow(gray, last)

    def box_of(self, matrix: Matrix, points: Points, aspect: float) -> Box:
        """Return the box that the detector would give a face, computed from its keypoints.

        `points` are (15, 2), in the crop of the (2, 3) image-to-crop `matrix`. `aspect` is the width over the height of
        the detector's last box of this face.
        """
        return self._bundle.keypoints.framing.box(self._keypoints.face_square(matrix, points), aspect)

    def read_emotions(self, grays: list[Image], found: FoundKeypoints) -> list[Emotion]:
        """Return the emotions of N faces: one gray (H, W) image per face, and their keypoints."""
        crops = cut(grays, self._alignment.matrices(found), self._bundle.emotion.size)
        outputs = self._emotion.run(crops)
        return [_emotion(row[self._columns], self._labels) for row in _softmax(outputs[self._head])]


class _LastCall(threading.local):
    timings = Timings()


def open_networks(
    bundle: Bundle, device: str, backend: str, precision: str | None, threads: int | None
) -> tuple[Session, Session]:
    """Return the keypoint and the emotion session on the first device that really runs both.

    Arguments and errors are those of `Analyzer`.
    """

    def open_on(target: str) -> tuple[Session, Session]:
        keypoints, emotion = (
            Session(bundle.read(model, key), model, key, device=target, threads=threads)
            for model in (bundle.keypoints, bundle.emotion)
            for key in (_key(model, target, BACKENDS[backend], precision),)
        )
        return keypoints, emotion

    *others, last = devices_to_try(device, backend)
    for other in others:
        try:
            return open_on(other)
        except DeviceError:
            continue
    return open_on(last)


def _key(model: ModelSpec, device: str, file_format: str, precision: str | None) -> str:
    """Return the key of a model's file: of the given precision, or the best for the device that the bundle has.

    `file_format` is "onnx" or "tflite".
    """
    wanted = precision or _DEFAULT_PRECISION[device]
    key = f"{wanted}.{file_format}"
    if wanted == "exact" or (precision is None and key not in model.files):
        return model.most_exact_key(file_format) or key
    return key


def _crop_grays(crops: Sequence[Picture]) -> list[Image]:
    # the rows of a single image would be taken for images; an array of gray images, (N, H, W), is a valid sequence
    if isinstance(crops, np.ndarray) and (crops.ndim == 2 or (crops.ndim == 3 and crops.shape[2] in (1, 3, 4))):
        raise ValueError(f"crops must be a sequence of images, got one image of {crops.shape}: put it into a list")
    grays = []
    for index, crop in enumerate(crops):
        try:
            grays.append(to_gray(crop))
        except ValueError as error:
            raise ValueError(f"crop {index}: {error}") from error
    return grays


def _with_margin(gray: Image) -> Image:
    """Prepare a crop that a face fills for the detector: add a replicated margin, and resize it."""
    height, width = (round(_MARGIN * side) for side in gray.shape)
    framed = cv2.copyMakeBorder(gray, height, height, width, width, cv2.BORDER_REPLICATE)
    scale = _DETECTOR_SIDE / max(framed.shape)
    rows, columns = (max(1, round(side * scale)) for side in framed.shape)
    return np.asarray(cv2.resize(framed, (columns, rows), interpolation=cv2.INTER_LINEAR), np.uint8)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    weights = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _emotion(chosen: NDArray[np.float64], labels: tuple[str, ...]) -> Emotion:
    total = float(chosen.sum())
    # the five classes of a face that is certainly neutral may all be 0: use equal probabilities
    shares = chosen / total if total > 0 else np.full(len(labels), 1 / len(labels))
    return Emotion(labels[int(shares.argmax())], dict(zip(labels, map(float, shares), strict=True)))


def _faces(detections: list[Detection], found: FoundKeypoints, emotions: list[Emotion]) -> list[Face]:
    return [
        Face(face.box, face.score, transform(points, invert(matrix)), emotion)
        for face, matrix, points, emotion in zip(detections, found.matrices, found.points, emotions, strict=True)
    ]


def _scaled_up(face: Detection, factor: float) -> Detection:
    x, y, width, height = (factor * side for side in face.box)
    return Detection((x, y, width, height), face.score)


def _from_full(matrix: Matrix, reduction: int) -> Matrix:
    """Turn a (2, 3) matrix from reduced image to crop into one from full image to crop.

    One pixel of the reduced image is a block of (`reduction`, `reduction`) pixels of the full one.
    """
    offset = (1 / reduction - 1) / 2
    return compose(matrix, np.array([[1 / reduction, 0, offset], [0, 1 / reduction, offset]]))


def _timings(start: float, detected: float, keypoints_done: float, end: float) -> Timings:
    return Timings(1e3 * (detected - start), 1e3 * (keypoints_done - detected), 1e3 * (end - keypoints_done))
