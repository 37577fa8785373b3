"""YuNet's network: a picture goes in, boxes with their scores come out.

onnxruntime runs it in a third of the time that OpenCV takes; OpenCV runs it where onnxruntime is not installed. Both
find the same.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from facexp.engines import has_onnxruntime, onnx_session
from facexp.errors import BundleError, DetectorError, one_line
from facexp.geometry import Image

_NMS_IOU = 0.3
_TOP = 5000
_STRIDES = (8, 16, 32)
# in the ONNX file the input's shape is (1, 3, 640, 640), a message of known bytes, and only that size would run; the
# same message with names in the place of the last two numbers is as long, and lets all sizes run
_FIXED = bytes.fromhex("0a020801 0a020803 0a03088005 0a03088005")
_FREE = bytes.fromhex("0a020801 0a020803 0a03120168 0a03120177")
# YuNet learned from colour photos: it sees more in a gray picture of a slightly warm tone than in one without any. With
# blue and red 5% off, at score 0.5 and with the keypoint network's word, of gray faces of 20 pixels 92.9 instead of
# 90.8% are found, of 28 pixels 98.2 instead of 97.7% (`benchmarks/second_opinion.py`); with twice as much alarms grow.
_BLUE, _RED = 0.95, 1.05
LEAST = 64
"""Smaller sides are not for the network. OpenCV 4.14 computes with memory it never wrote where a side is 32 pixels or
less: the same image then has other faces at each call. From 64 on, the raw outputs were bit-identical for all sizes
tried."""
_SMALL = 320
"""OpenCV keeps a network of its own for what is at most so large."""


class YuNet(Protocol):
    """The network, loaded."""

    def __call__(self, image: Image) -> NDArray[np.float64]:
        """(N, 5) x, y, width, height in pixels and the score; may hold nonsense.

        The picture is BGR (H, W, 3) uint8, or gray (H, W). Several threads may ask at once.
        """
        ...


def load(weights: bytes, file: str, min_score: float, threads: int | None) -> YuNet:
    """YuNet from the bytes of an ONNX file, run once; `file` is for messages.

    `threads` bounds the threads of onnxruntime, None leaves it to that. Raises DetectorError for another model.
    """
    kind = OnnxYuNet if has_onnxruntime() else OpenCvYuNet
    network = kind(weights, file, min_score, threads)
    # another ONNX model may load as well, and fail only when its outputs are read
    network(np.zeros((LEAST, LEAST, 3), np.uint8))
    return network


class OnnxYuNet:
    """In onnxruntime. What follows the network is as in OpenCV's `FaceDetectorYN`."""

    def __init__(self, weights: bytes, file: str, min_score: float, threads: int | None) -> None:
        """As `load`."""
        self._file, self._min_score = file, min_score
        self._names = [f"{what}_{stride}" for stride in _STRIDES for what in ("cls", "obj", "bbox")]
        try:
            free = weights.replace(_FIXED, _FREE)
            self._session = onnx_session(free, "detector", "cpu", threads, any_size=True)
        except BundleError as error:
            raise self._wrong(error) from error
        (self._input, *more) = (node.name for node in self._session.get_inputs())
        if more or not set(self._names) <= {node.name for node in self._session.get_outputs()}:
            raise self._wrong(ValueError("it has other inputs or outputs"))

    def __call__(self, image: Image) -> NDArray[np.float64]:
        """As `YuNet`."""
        planes = _planes(image)
        try:
            outputs = self._session.run(self._names, {self._input: planes})
        except Exception as error:
            raise self._wrong(error) from error
        per_stride = zip(_STRIDES, outputs[::3], outputs[1::3], outputs[2::3], strict=True)
        width = planes.shape[3]
        parts = [self._boxes(stride, width // stride, *(out[0] for out in outs)) for stride, *outs in per_stride]
        found = np.concatenate(parts)
        whole = np.trunc(np.nan_to_num(found[:, :4]))
        kept = cv2.dnn.NMSBoxes(whole.tolist(), found[:, 4].tolist(), self._min_score, _NMS_IOU, top_k=_TOP)
        return found[np.asarray(kept, np.intp)]

    def _boxes(
        self, stride: int, columns: int, cls: NDArray[Any], obj: NDArray[Any], bbox: NDArray[Any]
    ) -> NDArray[np.float64]:
        """(N, 5) what the cells of one stride find; `columns` is how many of them lie side by side."""
        scores = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
        chosen = np.flatnonzero(scores >= self._min_score)
        place, extent = bbox[chosen, :2].astype(np.float64), bbox[chosen, 2:]
        with np.errstate(over="ignore"):
            extent = np.exp(extent).astype(np.float64) * stride
        place = (place + np.column_stack([chosen % columns, chosen // columns])) * stride
        return np.column_stack([place - extent / 2, extent, scores[chosen]])

    def _wrong(self, error: Exception) -> DetectorError:
        return DetectorError(f"{self._file}: not a YuNet face detector that onnxruntime can run ({one_line(error)})")


def _planes(image: Image) -> NDArray[np.float32]:
    """(1, 3, H, W), with zeros at the right and below up to what the strides divide.

    It takes a third of the time of `cv2.dnn.blobFromImage`.
    """
    rows, columns = image.shape[:2]
    planes = np.empty((1, 3, rows + -rows % _STRIDES[-1], columns + -columns % _STRIDES[-1]), np.float32)
    planes[:, :, rows:] = 0
    planes[:, :, :rows, columns:] = 0
    for plane, channel in zip(planes[0], _channels(image), strict=True):
        plane[:rows, :columns] = channel
    return planes


def _channels(image: Image) -> Sequence[Image]:
    """Blue, green and red of a BGR picture, or of the tone that a gray one is given."""
    if image.ndim == 3:
        return cv2.split(image)  # type: ignore[return-value]
    blue, red = (np.asarray(cv2.convertScaleAbs(image, alpha=share), np.uint8) for share in (_BLUE, _RED))
    return blue, image, red


class OpenCvYuNet:
    """In OpenCV, with as many threads as `cv2.setNumThreads` allows the whole process."""

    def __init__(self, weights: bytes, file: str, min_score: float, threads: int | None = None) -> None:
        """As `load`; `threads` is without effect."""
        self._file = file
        content = np.frombuffer(weights, np.uint8), np.empty(0, np.uint8)
        settings = {"score_threshold": min_score, "nms_threshold": _NMS_IOU, "top_k": _TOP}
        try:
            # one network a size: OpenCV plans a network anew whenever the size of its input changes
            self._small, self._large = (
                cv2.FaceDetectorYN.create("onnx", *content, (_SMALL, _SMALL), **settings)  # type: ignore[call-overload]
                for _ in range(2)
            )
        except cv2.error as error:
            raise self._wrong() from error
        self._turns = threading.Lock()

    def __call__(self, image: Image) -> NDArray[np.float64]:
        """As `YuNet`."""
        bgr = cv2.merge(_channels(image)) if image.ndim == 2 else image
        network = self._small if max(bgr.shape) <= _SMALL else self._large
        with self._turns:
            network.setInputSize((bgr.shape[1], bgr.shape[0]))
            try:
                _, found = network.detect(bgr)
            except cv2.error as error:
                raise self._wrong() from error
        return np.empty((0, 5)) if found is None else np.asarray(found, np.float64)[:, [0, 1, 2, 3, -1]]

    def _wrong(self) -> DetectorError:
        return DetectorError(f"{self._file}: not a YuNet face detector that OpenCV {cv2.__version__} can run")
