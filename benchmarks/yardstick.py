"""Compare this machine's speed with that of the reference machine: python benchmarks/yardstick.py

The reference machine is the one on which the floors of benchmarks/floors.py were set. The yardstick is a network with
a known run time there: 0.94 M parameters, crops of 44 px, stages of 40, 80 and 144 channels, which is
`emotion_network()` with its default options, exported and quantized like the shipped one. Its weights are random, which
take as long as trained ones. Needs facexp[cpu,train,export].
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from facexp.engines import onnx_session
from facexp.timing import in_turns

REFERENCE_S = {"int8": 0.34e-3, "float32": 0.86e-3}
"""Seconds for one face on the reference machine: one thread of two x86 cores with VNNI."""


def load() -> dict[str, Callable[[], object]]:
    """Return, by precision, a function that runs the network on one face.

    The files are written in another process, so that TensorFlow is not loaded in this one. Raises
    subprocess.CalledProcessError if an extra is missing.
    """
    calls: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as name:
        quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        subprocess.run([sys.executable, __file__, name], check=True, stdout=subprocess.DEVNULL, env=quiet)
        for precision in REFERENCE_S:
            session = onnx_session(Path(name, f"{precision}.onnx").read_bytes(), "yardstick", "cpu", threads=1)
            face = {"image": np.full((1, 48, 48, 1), 127, np.uint8)}
            calls[precision] = functools.partial(session.run, None, face)
    return calls


def seconds(call: Callable[[], object], runs: int = 200) -> float:
    """The time of the shortest of many runs, in seconds."""
    return in_turns({"yardstick": call}, runs)["yardstick"].least / 1e3


def write(folder: Path) -> None:
    """Write float32.onnx and int8.onnx into a folder."""
    from facexp_export.faces import drawn_faces
    from facexp_export.onnx_float import write_float32
    from facexp_export.quantize import write_int8
    from facexp_export.tasks import TASKS
    from facexp_train.networks.resnet import emotion_network

    task, model = TASKS["emotion"], emotion_network()
    faces = drawn_faces(task.size)
    # Keras can export a model only after it has been called once
    model(faces)
    write_float32(model, task, folder / "float32.onnx", "yardstick")
    write_int8(folder / "float32.onnx", folder / "int8.onnx", faces, task.kind, "MinMax", "yardstick")


def main() -> None:
    if sys.argv[1:]:
        write(Path(sys.argv[1]))
        return
    for precision, call in load().items():
        here = seconds(call, 2000)
        reference = REFERENCE_S[precision]
        print(f"{precision}: {1e3 * here:.3f} ms, reference {1e3 * reference:.2f}: x{here / reference:.2f}")


if __name__ == "__main__":
    main()
