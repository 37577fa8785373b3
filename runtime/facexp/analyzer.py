"""An image goes in, a list of faces comes out: detect, crop, keypoints, align, emotion."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp.bundle import Bundle, EmotionSpec, ModelSpec
from facexp.detector import Detection, Detector
from facexp.errors import DeviceError
from facexp.geometry import (
    ALIGNMENT,
    Image,
    Matrix,
    align,
    compose,
    cut,
    invert,
    similarity,
    square_matrix,
    to_gray,
    transform,
    zoom_of,
)
from facexp.keypoints import Found, KeypointFinder
from facexp.labels import EMOTIONS, SEVEN
from facexp.session import Session, candidates
from facexp.types import Emotion, Face, Timings

# A detector that is not sure is asked twice: a face keeps its points when it is framed anew, anything else does not.
# On validation faces 99.5% of those with a score of 0.9 or more drift less than this, of what is found beside the faces
# at scores of 0.3 to 0.7 about one in six does; in the sample photos no alarm does. Profiles drift as well, and have
# scores above 0.8, where the detector alone raises hardly an alarm.
_SURE = 0.8
_MOST_DRIFT = 0.05

_PRECISION = {"cpu": "int8", "cuda": "float32"}


class Analyzer:
    """Finds the faces of an image with their 15 points and their emotion. Not for use by two threads at once."""

    def __init__(
        self,
        device: str = "auto",
        threads: int | None = None,
        emotions: str = "seven",
        *,
        precision: str | None = None,
        detector: str | Path | None = None,
        bundle: str | Path | None = None,
        min_score: float = 0.5,
        max_faces: int | None = None,
    ) -> None:
        """Load detector and networks and run each once.

        device: "cpu", "cuda", which raises unless the live sessions run on it, or "auto": the best that really runs.
        threads: most threads inside one operator of a network, None leaves it to onnxruntime. The detector runs in
        OpenCV, whose number of threads belongs to the whole process: set it with `cv2.setNumThreads`.
        emotions: "seven" or "five" (angry, disgust, sad, happy, surprise: the seven renormalised).
        precision: "int8" or "float32", None takes int8 on the CPU and float32 on CUDA.
        detector: another YuNet ONNX file. bundle: directory of another model bundle.
        min_score: faces of a lower detector score are left out, 0 to 1; of those below 0.8, too, where the keypoint
        network finds no face. max_faces: the largest so many are kept.

        Raises DeviceError, BundleError, DetectorError, or ValueError for an argument out of its range.
        """
        if emotions not in EMOTIONS:
            raise ValueError(f"emotions must be one of {', '.join(EMOTIONS)}, got {emotions!r}")
        if max_faces is not None and max_faces < 1:
            raise ValueError(f"max_faces must be None or at least 1, got {max_faces}")
        self._labels = EMOTIONS[emotions]
        self._max_faces = max_faces
        self._bundle = Bundle.load(bundle)
        self._detector = Detector(detector, min_score=min_score)
        keypoints, self._emotion = _open(self._bundle, device, precision, threads)
        self._keypoints = KeypointFinder(keypoints, self._bundle.keypoints)
        self._timings = Timings()
        # where an average face's points would put the emotion crop, seen from the keypoints crop
        mean_shape, template = self._bundle.keypoints.mean_shape, self._bundle.emotion.template
        self._average = similarity(mean_shape[list(ALIGNMENT)], template[list(ALIGNMENT)])

    @property
    def device(self) -> str:
        """Where the networks really run: "cpu" or "cuda". The detector always runs on the CPU."""
        return self._keypoints.device

    @property
    def bundle(self) -> Bundle:
        """The models in use."""
        return self._bundle

    @property
    def timings(self) -> Timings:
        """How long the steps of the last call took; zeros before the first."""
        return self._timings

    def analyze(self, image: Image) -> list[Face]:
        """The faces of a uint8 image, largest box first; [] when there is none.

        The image is (H, W, 3) BGR, (H, W, 4) BGRA, (H, W) or (H, W, 1) gray. Raises ValueError for another array.
        """
        start = time.perf_counter()
        gray = to_gray(image)
        candidates = self._detector.detect(image)
        detected = time.perf_counter()
        faces, found = self._confirmed(gray, candidates)
        pointed = time.perf_counter()
        grays = [gray] * len(faces)
        emotions = self._read_emotions(grays, found.placed, found.points)
        self._timings = _timings(start, detected, pointed, time.perf_counter())
        return _faces(faces, found, emotions)

    def analyze_crops(self, crops: Sequence[Image]) -> list[Face]:
        """One face per uint8 image, in the same order, where each image shows one face that fills it.

        No detector runs: the box is the whole image and the score 1. The arrays are as for `analyze`, of any sizes.
        Raises ValueError, naming the crop's number from 0, for another array.
        """
        start = time.perf_counter()
        grays = [_crop_gray(index, crop) for index, crop in enumerate(crops)]
        found = self._keypoints.find_in_crops(grays)
        pointed = time.perf_counter()
        emotions = self._read_emotions(grays, found.placed, found.points)
        self._timings = _timings(start, start, pointed, time.perf_counter())
        whole = [Detection((0.0, 0.0, float(gray.shape[1]), float(gray.shape[0])), 1.0) for gray in grays]
        return _faces(whole, found, emotions)

    def _confirmed(self, gray: Image, candidates: list[Detection]) -> tuple[list[Detection], Found]:
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
        rows = np.flatnonzero(sure | (found.drift <= _MOST_DRIFT))[: self._max_faces]
        kept = Found([found.placed[row] for row in rows], found.points[rows], found.drift[rows])
        return [candidates[row] for row in rows], kept

    def _read_emotions(self, grays: list[Image], placed: list[Matrix], points: NDArray[np.float32]) -> list[Emotion]:
        spec = self._bundle.emotion
        zoom = zoom_of(self._average)
        aligned = []
        for matrix, found in zip(placed, points, strict=True):
            onto_template = align(found, spec.template, zoom)
            aligned.append(compose(self._average if onto_template is None else onto_template, matrix))
        outputs = self._emotion.run(cut(grays, aligned, spec.size))
        return [_emotion(row, self._labels) for row in _probabilities(outputs, spec)]


def _open(bundle: Bundle, device: str, precision: str | None, threads: int | None) -> tuple[Session, Session]:
    """Keypoints and emotion sessions on the first device that really runs both."""
    *hopes, last = candidates(device)
    for hope in hopes:
        try:
            return _open_on(bundle, hope, precision, threads)
        except DeviceError:
            continue
    return _open_on(bundle, last, precision, threads)


def _open_on(bundle: Bundle, device: str, precision: str | None, threads: int | None) -> tuple[Session, Session]:
    keypoints, emotion = (
        Session(bundle.read(model, precision or _best_precision(model, device)), model, device=device, threads=threads)
        for model in (bundle.keypoints, bundle.emotion)
    )
    return keypoints, emotion


def _best_precision(model: ModelSpec, device: str) -> str:
    best = _PRECISION[device]
    return best if best in model.files else next(iter(model.files))


def _crop_gray(index: int, crop: Image) -> Image:
    try:
        return to_gray(crop)
    except ValueError as error:
        raise ValueError(f"crop {index}: {error}") from error


def _probabilities(outputs: dict[str, NDArray[np.float32]], spec: EmotionSpec) -> NDArray[np.float64]:
    """(N, 7): the mean of the heads' softmaxes."""
    logits = np.stack([outputs[head] for head in spec.heads]).astype(np.float64)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray((weights / weights.sum(axis=-1, keepdims=True)).mean(axis=0))


def _emotion(row: NDArray[np.float64], labels: tuple[str, ...]) -> Emotion:
    chosen = row[[SEVEN.index(label) for label in labels]]
    total = float(chosen.sum())
    # five classes of a face that is neutral beyond any doubt: nothing is left to share out
    shares = chosen / total if total > 0 else np.full(len(labels), 1 / len(labels))
    return Emotion(labels[int(shares.argmax())], dict(zip(labels, map(float, shares), strict=True)))


def _faces(found_in: list[Detection], found: Found, emotions: list[Emotion]) -> list[Face]:
    return [
        Face(face.box, face.score, transform(points, invert(matrix)), emotion)
        for face, matrix, points, emotion in zip(found_in, found.placed, found.points, emotions, strict=True)
    ]


def _timings(start: float, detected: float, pointed: float, end: float) -> Timings:
    return Timings(1e3 * (detected - start), 1e3 * (pointed - detected), 1e3 * (end - pointed))
