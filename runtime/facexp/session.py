"""One network on one device: the provider asked is the provider that runs, or an error says so."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facexp.bundle import ModelSpec, TensorSpec
from facexp.checks import expect_count
from facexp.engines import ENGINES, has_cuda
from facexp.errors import BundleError, DeviceError, EngineError, one_line

DEVICES: tuple[str, ...] = ("auto", "cpu", "cuda")
"""What a caller may ask for."""
BACKENDS: dict[str, str] = {"onnxruntime": "onnx", "litert": "tflite"}
"""What runs the networks -> the format of the files that it takes."""

# memory of a batch grows with its size and speed does not: a crowd or a folder of crops goes through in pieces
_CHUNK = 64


def devices_to_try(device: str, backend: str = "onnxruntime") -> tuple[str, ...]:
    """The devices to try for what was asked, best first; "auto" tries CUDA where onnxruntime was built for it.

    Being in this list promises nothing: only a live `Session` tells. Raises ValueError for an unknown device.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device != "auto":
        return (device,)
    return ("cuda", "cpu") if backend == "onnxruntime" and has_cuda() else ("cpu",)


class Session:
    """One model in onnxruntime or LiteRT, warmed up. Several threads may use it at once."""

    def __init__(
        self, model: bytes, spec: ModelSpec, key: str, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        """Load `model`, the bytes of the file `key` of a model, check that it is what `spec` says, and run it once.

        `key` is as in the manifest, "int8.onnx": its ending tells what runs the file. `device` is "cpu" or "cuda";
        `threads` bounds the threads inside one operator, None leaves it to onnxruntime.
        Raises DeviceError when the live session does not run on `device` or the library is missing, EngineError when
        the model cannot be loaded or run, BundleError when it differs from `spec`, ValueError for an unknown device or
        threads < 1.
        """
        if device not in DEVICES[1:]:
            raise ValueError(f"a session runs on one of {', '.join(DEVICES[1:])}, got {device!r}")
        expect_count("threads", threads, optional=True)
        form = key.rpartition(".")[2]
        if form not in ENGINES:
            raise ValueError(f"a session runs files of {', '.join(ENGINES)}, got {key!r}")
        self._spec = spec
        self._device = device
        self._engine = ENGINES[form](model, spec.name, device, threads)
        self._check_tensors("input", (spec.input,), self._engine.inputs)
        self._check_tensors("output", spec.outputs, self._engine.outputs)
        self._check_metadata()
        self._warm_up()

    @property
    def device(self) -> str:
        """The device that really runs: "cpu" or "cuda"."""
        return self._device

    @property
    def metadata(self) -> str | None:
        """The JSON text in which the file says what it is, None where it says nothing."""
        return self._engine.metadata

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Output name -> float32 array with a row per input, for a uint8 batch (N, H, W, 1) of any N, also 0.

        Raises ValueError for another dtype or shape.
        """
        row = self._spec.input.row
        if not isinstance(batch, np.ndarray) or batch.dtype != np.uint8:
            got = getattr(batch, "dtype", type(batch).__name__)
            raise ValueError(f"model {self._spec.name} takes a uint8 array, got {got}")
        if batch.ndim != len(row) + 1 or batch.shape[1:] != row:
            raise ValueError(f"model {self._spec.name} takes shape (N, {', '.join(map(str, row))}), got {batch.shape}")
        if len(batch) == 0:
            return {output.name: np.zeros((0, *output.row), np.float32) for output in self._spec.outputs}
        parts = [self._run(batch[start : start + _CHUNK]) for start in range(0, len(batch), _CHUNK)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        return self._engine.run(self._spec.input.name, batch)

    def _warm_up(self) -> None:
        # the first run allocates and, on CUDA, loads kernels: a driver that cannot run shows here, not at a first face
        blank = np.zeros((1, *self._spec.input.row), np.uint8)
        try:
            self._run(blank)
        except Exception as error:
            kind = DeviceError if self._device == "cuda" else EngineError
            raise kind(f"model {self._spec.name} does not run on {self._device}: {one_line(error)}") from error

    def _check_metadata(self) -> None:
        if self.metadata is None:
            return
        spec = self._spec
        try:
            says = json.loads(self.metadata)
            found = {key: says[key] for key in ("task", "labels", "preprocessing")}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BundleError(f"model {spec.name}: the file's metadata cannot be read ({one_line(error)})") from error
        expected = {"task": spec.name, "labels": list(spec.labels), "preprocessing": dict(spec.preprocessing)}
        for key, value in expected.items():
            if found[key] != value:
                raise BundleError(
                    f"model {spec.name}: the file's metadata has another {key} than the manifest; export it again"
                )

    def _check_tensors(self, what: str, expected: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> None:
        says = {tensor.name: (tensor.dtype, tensor.row) for tensor in expected}
        has = {tensor.name: (tensor.dtype, tensor.row) for tensor in found}
        if says != has:
            raise BundleError(f"model {self._spec.name}: the file's {what} is {has}, the manifest says {says}")
