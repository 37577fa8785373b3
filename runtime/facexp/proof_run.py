"""What a device can prove by itself: steps 1 and 4, with the runtime alone, in seconds."""

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
from facexp.proof import Report, Step
from facexp.proof_device import device
from facexp.proof_structure import structure

NO_DATA = "no faces given; name the data that the networks were trained on with --data"
LAYERS_NEED_DATA = "layers are compared where faces are given: --data"
NOTHING_FAILED = "nothing failed that runs here"


def prove(directory: Path) -> Report:
    """Steps 1 and 4 for the bundle in a directory; the steps that need faces are skipped, and say so."""
    skipped = [Step(number, notes=(NO_DATA,)) for number in (2, 3)]
    first, fourth = structure(directory), device(directory)
    note = LAYERS_NEED_DATA if first.failures or fourth.failures else NOTHING_FAILED
    return report(directory, [first, *skipped, fourth, Step(5, notes=(note,))])


def report(directory: Path, steps: Iterable[Step]) -> Report:
    """The steps with what they are about and where they were made."""
    try:
        manifest = read_manifest(directory)
        bundle = {key: manifest.get(key, str) for key in ("name", "version", "created")}
    except BundleError:
        # step 1 has said why
        bundle = {"name": directory.resolve().name, "version": "", "created": ""}
    return Report(bundle, machine(), tuple(steps))


def machine() -> dict[str, str]:
    """System, processor, threads and versions of this machine; a library that is not there is "none"."""
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
