"""Facial expression at the edge: faces, 15 keypoints and an emotion, offline, on numpy, OpenCV and onnxruntime.

import cv2, facexp
analyzer = facexp.Analyzer()
for face in analyzer.analyze(cv2.imread("photo.jpg")):
    print(face.box, face.emotion.label)
"""

from __future__ import annotations

import importlib.metadata

from facexp.analyzer import Analyzer
from facexp.errors import BundleError, DetectorError, DeviceError, FacexpError, SourceError
from facexp.geometry import KEYPOINTS
from facexp.labels import FIVE, SEVEN
from facexp.types import Emotion, Face, Frame, Timings

try:
    __version__ = importlib.metadata.version("facexp")
except importlib.metadata.PackageNotFoundError:
    # a checkout on PYTHONPATH, as on a machine that trains without installing
    __version__ = "0+unknown"

__all__ = [
    "FIVE",
    "KEYPOINTS",
    "SEVEN",
    "Analyzer",
    "BundleError",
    "DetectorError",
    "DeviceError",
    "Emotion",
    "Face",
    "FacexpError",
    "Frame",
    "SourceError",
    "Timings",
    "__version__",
]
