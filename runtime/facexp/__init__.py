"""Facial expression analysis on edge devices: find faces, with 15 keypoints and an emotion each, offline.

The runtime needs only numpy, OpenCV and onnxruntime.

import cv2, facexp
analyzer = facexp.Analyzer()
for face in analyzer.analyze(cv2.imread("photo.jpg")):
    print(face.box, face.emotion.label)
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from facexp.errors import BundleError, DetectorError, DeviceError, FacexpError, SourceError
from facexp.labels import FIVE, SEVEN

# official onnxruntime builds send telemetry to Microsoft unless this is set before onnxruntime is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from facexp import benchmark as benchmark
    from facexp import bundle as bundle
    from facexp import detector as detector
    from facexp import doctor as doctor
    from facexp import draw as draw
    from facexp import geometry as geometry
    from facexp import keypoints as keypoints
    from facexp import many as many
    from facexp import pipeline as pipeline
    from facexp import reading as reading
    from facexp import sinks as sinks
    from facexp import sources as sources
    from facexp.analyzer import Analyzer
    from facexp.geometry import KEYPOINTS
    from facexp.tracking import Tracker
    from facexp.types import Emotion, Face, Frame, Smoothed, Timings
    from facexp.version import __version__
else:
    _MODULE_OF = {
        "Analyzer": "analyzer",
        "KEYPOINTS": "geometry",
        "Tracker": "tracking",
        "__version__": "version",
        **dict.fromkeys(("Emotion", "Face", "Frame", "Smoothed", "Timings"), "types"),
    }

    _MODULES = frozenset(
        (
            *("benchmark", "bundle", "detector", "doctor", "draw", "geometry"),
            *("keypoints", "many", "pipeline", "reading", "sinks", "sources"),
        )
    )

    def __getattr__(name: str) -> object:
        # import on first use: a module that needs OpenCV must not prevent `facexp.doctor` from reporting that OpenCV is
        # broken
        if name in _MODULES:
            return importlib.import_module(f"facexp.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'facexp' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"facexp.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        # include names that are not imported yet, for help() and tab completion
        return sorted({*globals(), *__all__})


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
    "Smoothed",
    "SourceError",
    "Timings",
    "Tracker",
    "__version__",
]
