"""The YuNet face detection network: a picture in, boxes with scores out.

onnxruntime runs it in a third of the time that OpenCV takes; OpenCV runs it if onnxruntime is not installed. Both find
the same faces.
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
_NMS_TOP_K = 5000
_STRIDES = (8, 16, 32)
# The ONNX file declares the input's shape as (1, 3, 640, 640), and onnxruntime would accept only that size. The bytes
# of this shape are replaced by the same shape with named dimensions for height and width, which is as long and allows
# all sizes.
_FIXED_SHAPE = bytes.fromhex("0a020801 0a020803 0a03088005 0a03088005")
_NAMED_SHAPE = bytes.fromhex("0a020801 0a020803 0a03120168 0a03120177")
# YuNet was trained on colour photos and finds more faces in a gray picture with a slightly warm tone than in a neutral
# one. With 5% less blue and 5% more red, at score 0.5 and confirmed by the keypoint network, it finds 92.9 instead of
# 90.8% of gray faces of 20 pixels, and 98.2 instead of 97.7% of 28 pixels (`benchmarks/second_opinion.py`). With twice
# the tone, false positives increase.
_BLUE_GAIN, _RED_GAIN = 0.95, 1.05
MIN_SIDE = 64
"""Minimum side, in pixels, of a picture for the network; `facexp.detector` pads smaller ones. If a side is 32 pixels or
less, OpenCV 4.14 computes with uninitialised memory, and the same image gives different faces at each call. From 64
pixels on, the raw outputs were bit-identical for all sizes tried."""
COARSE_SIDE = 320
"""Longest side, in pixels, of the input of the detector's coarse pass, for which OpenCV uses a separate network."""


class YuNet(Protocol):
    """The loaded network."""

    def __call__(self, image: Image) -> NDArray[np.float64]:
        """Return float64 rows (N, 5) of x, y, width, height in pixels and score; they are not checked for validity.

        The picture is BGR (H, W, 3) or gray (H, W), uint8. Several threads may call at once.
        """
        ...


def load(weights: bytes, file: str, min_score: float, threads: int | None) -> YuNet:
    """Load YuNet from the bytes of an ONNX file and run it once; `file` is its name for messages.

    `threads` limits the threads of onnxruntime; None leaves the choice to it. Raises DetectorError for another model.
    """
    kind = OnnxYuNet if has_onnxruntime() else OpenCvYuNet
    network = kind(weights, file, min_score, threads)
    # another ONNX model may load without an error, and fail only when its outputs are read
    network(np.zeros((MIN_SIDE, MIN_SIDE, 3), np.uint8))
    return network


class OnnxYuNet:
    """YuNet in onnxruntime, with the same postprocessing as OpenCV's `FaceDetectorYN`."""

    def __init__(self, weights: bytes, file: str, min_score: float, threads: int | None) -> None:
        """Load the network; the arguments are as for `load`."""
        self._file, self._min_score = file, min_score
        self._names = [f"{what}_{stride}" for stride in _STRIDES for what in ("cls", "obj", "bbox")]
        try:
            resizable = weights.replace(_FIXED_SHAPE, _NAMED_SHAPE)
            self._session = onnx_session(resizable, "detector", "cpu", threads, any_size=True)
        except BundleError as error:
            raise self._error(error) from error
        (self._input, *more) = (node.name for node in self._session.get_inputs())
        if more or not set(self._names) <= {node.name for node in self._session.get_outputs()}:
            raise self._error(ValueError("its inputs or outputs are not YuNet's"))

    def __call__(self, image: Image) -> NDArray[np.float64]:
        """Run the network, as described in `YuNet`."""
        planes = _planes(image)
        try:
            outputs = self._session.run(self._names, {self._input: planes})
        except Exception as error:
            raise self._error(error) from error
        per_stride = zip(_STRIDES, outputs[::3], outputs[1::3], outputs[2::3], strict=True)
        width = planes.shape[3]
        parts = [self._boxes(stride, width // stride, *(out[0] for out in outs)) for stride, *outs in per_stride]
        found = np.concatenate(parts)
        boxes = np.trunc(np.nan_to_num(found[:, :4]))
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), found[:, 4].tolist(), self._min_score, _NMS_IOU, top_k=_NMS_TOP_K)
        return found[np.asarray(kept, np.intp)]

    def _boxes(
        self, stride: int, columns: int, cls: NDArray[Any], obj: NDArray[Any], bbox: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Decode the outputs of one stride to (N, 5) boxes with scores; `columns` is the width of its grid in cells."""
        scores = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
        chosen = np.flatnonzero(scores >= self._min_score)
        centre, extent = bbox[chosen, :2].astype(np.float64), bbox[chosen, 2:]
        with np.errstate(over="ignore"):
            extent = np.exp(extent).astype(np.float64) * stride
        centre = (centre + np.column_stack([chosen % columns, chosen // columns])) * stride
        return np.column_stack([centre - extent / 2, extent, scores[chosen]])

    def _error(self, error: Exception) -> DetectorError:
        return DetectorError(f"{self._file}: not a YuNet face detector that onnxruntime can run ({one_line(error)})")


def _planes(image: Image) -> NDArray[np.float32]:
    """Return the picture as float32 (1, 3, H, W), padded with zeros at the right and bottom to multiples of 32.

    This takes a third of the time of `cv2.dnn.blobFromImage`.
    """
    rows, columns = image.shape[:2]
    planes = np.empty((1, 3, rows + -rows % _STRIDES[-1], columns + -columns % _STRIDES[-1]), np.float32)
    planes[:, :, rows:] = 0
    planes[:, :, :rows, columns:] = 0
    for plane, channel in zip(planes[0], _channels(image), strict=True):
        plane[:rows, :columns] = channel
    return planes


def _channels(image: Image) -> Sequence[Image]:
    """Return blue, green and red of a BGR picture, or of a gray picture given a warm tone."""
    if image.ndim == 3:
        return cv2.split(image)  # type: ignore[return-value]
    blue, red = (np.asarray(cv2.convertScaleAbs(image, alpha=gain), np.uint8) for gain in (_BLUE_GAIN, _RED_GAIN))
    return blue, image, red


class OpenCvYuNet:
    """YuNet in OpenCV, with the number of threads that `cv2.setNumThreads` sets for the whole process."""

    def __init__(self, weights: bytes, file: str, min_score: float, threads: int | None = None) -> None:
        """Load the network; the arguments are as for `load`, but `threads` has no effect."""
        self._file = file
        content = np.frombuffer(weights, np.uint8), np.empty(0, np.uint8)
        settings = {"score_threshold": min_score, "nms_threshold": _NMS_IOU, "top_k": _NMS_TOP_K}
        try:
            # two networks, because OpenCV prepares a network again whenever the size of its input changes, and the
            # detector alternates between a coarse and a fine copy of each picture
            self._coarse, self._fine = (
                cv2.FaceDetectorYN.create("onnx", *content, (COARSE_SIDE, COARSE_SIDE), **settings)  # type: ignore[call-overload]
                for _ in range(2)
            )
        except cv2.error as error:
            raise self._error() from error
        self._lock = threading.Lock()

    def __call__(self, image: Image) -> NDArray[np.float64]:
        """Run the network, as described in `YuNet`."""
        bgr = cv2.merge(_channels(image)) if image.ndim == 2 else image
        network = self._coarse if max(bgr.shape) <= COARSE_SIDE else self._fine
        with self._lock:
            network.setInputSize((bgr.shape[1], bgr.shape[0]))
            try:
                _, found = network.detect(bgr)
            except cv2.error as error:
                raise self._error() from error
        return np.empty((0, 5)) if found is None else np.asarray(found, np.float64)[:, [0, 1, 2, 3, -1]]

    def _error(self) -> DetectorError:
        return DetectorError(f"{self._file}: not a YuNet face detector that OpenCV {cv2.__version__} can run")
