"""The part of the proof that any device can run by itself: steps 1 and 4, with the runtime alone, in seconds."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from facexp.bundle import read_manifest
from facexp.cores import cores
from facexp.errors import BundleError
from facexp.proof.device import device
from facexp.proof.structure import structure
from facexp.proof.verdict import Report, Step

NO_DATA = "no faces given; name the data that the networks were trained on with --data"
LAYERS_NEED_DATA = "layers are compared only if faces are given with --data"
NOTHING_FAILED = "nothing failed that runs here"


def prove(directory: Path) -> Report:
    """Carry out steps 1 and 4 for the bundle in a directory; the other steps are skipped, with a note that says so."""
    skipped = [Step(number, notes=(NO_DATA,)) for number in (2, 3)]
    first, fourth = structure(directory), device(directory)
    note = LAYERS_NEED_DATA if first.failures or fourth.failures else NOTHING_FAILED
    return report(directory, [first, *skipped, fourth, Step(5, notes=(note,))])


def report(directory: Path, steps: Iterable[Step]) -> Report:
    """Return the report of the steps, with the bundle's name and version and this machine."""
    try:
        manifest = read_manifest(directory)
        bundle = {key: manifest.get(key, str) for key in ("name", "version", "created")}
    except BundleError:
        # step 1 reports the reason
        bundle = {"name": directory.resolve().name, "version": "", "created": ""}
    return Report(bundle, machine(), tuple(steps))


def machine() -> dict[str, str]:
    """Return operating system, architecture, threads and versions; "none" for a library that is not installed."""
    versions = {"numpy": np.__version__, "OpenCV": cv2.__version__}
    for name, module in (("onnxruntime", "onnxruntime"), ("LiteRT", "ai_edge_litert")):
        try:
            versions[name] = str(getattr(importlib.import_module(module), "__version__", "unknown"))
        except ImportError:
            versions[name] = "none"
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "threads": str(cores()),
        "Python": platform.python_version(),
        **versions,
    }
