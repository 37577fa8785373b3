"""One network on one device: a session runs on the device that was requested, or raises an error."""

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
"""The values that a caller may pass as `device`."""
BACKENDS: dict[str, str] = {"onnxruntime": "onnx", "litert": "tflite"}
"""The library that runs the networks -> the format of the files that it loads."""

# a larger batch takes more memory but is not faster: a crowd or a folder of crops is processed in chunks
_CHUNK = 64


def devices_to_try(device: str, backend: str = "onnxruntime") -> tuple[str, ...]:
    """Return the devices to try for a requested one, best first; "auto" tries CUDA if onnxruntime was built with it.

    A device in this tuple need not work: only creating a `Session` shows that. Raises ValueError for an unknown device.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device != "auto":
        return (device,)
    return ("cuda", "cpu") if backend == "onnxruntime" and has_cuda() else ("cpu",)


class Session:
    """One model loaded in onnxruntime or LiteRT and warmed up. Several threads may use it at once."""

    def __init__(
        self, model: bytes, spec: ModelSpec, key: str, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        """Load a model from the bytes of its file, check it against `spec`, and run it once.

        `key` is the file's key in the manifest, such as "int8.onnx"; its ending selects the library that runs the file.
        `device` is "cpu" or "cuda". `threads` limits the threads inside one operator; None is onnxruntime's own choice,
        or all cores for LiteRT.
        Raises DeviceError if the session does not really run on `device` or the library is missing, EngineError if the
        model cannot be loaded or run, BundleError if it differs from `spec`, ValueError for an unknown device, an
        unknown file ending or threads < 1.
        """
        if device not in DEVICES[1:]:
            raise ValueError(f"a session runs on one of {', '.join(DEVICES[1:])}, got {device!r}")
        expect_count("threads", threads, optional=True)
        file_format = key.rpartition(".")[2]
        if file_format not in ENGINES:
            raise ValueError(f"a session runs files of the formats {', '.join(ENGINES)}, got {key!r}")
        self._spec = spec
        self._device = device
        self._engine = ENGINES[file_format](model, spec.name, device, threads)
        self._check_tensors("input", (spec.input,), self._engine.inputs)
        self._check_tensors("output", spec.outputs, self._engine.outputs)
        self._check_metadata()
        self._warm_up()

    @property
    def device(self) -> str:
        """The device on which the model really runs: "cpu" or "cuda"."""
        return self._device

    @property
    def metadata(self) -> str | None:
        """The JSON text that describes the model inside its file; None if the file has none."""
        return self._engine.metadata

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Run the network on a uint8 batch (N, H, W, 1), where N may be 0.

        Returns output name -> float32 array with one row for each input. Raises ValueError for another dtype or shape.
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
        # the first run allocates memory and, on CUDA, loads kernels: a driver that does not work fails here already,
        # not at the first face; and a file that takes only one crop a run, not at the first picture of two
        for rows in (1, 2):
            blank = np.zeros((rows, *self._spec.input.row), np.uint8)
            try:
                outputs = self._run(blank)
            except Exception as error:
                kind = DeviceError if self._device == "cuda" else EngineError
                crops = " with two crops at once" if rows > 1 else ""
                raise kind(
                    f"model {self._spec.name} does not run on {self._device}{crops}: {one_line(error)}"
                ) from error
            for name, values in outputs.items():
                if len(values) != rows:
                    raise BundleError(f"model {self._spec.name}: {name} has {len(values)} rows for {rows} crops")

    def _check_metadata(self) -> None:
        if self.metadata is None:
            return
        spec = self._spec
        try:
            metadata = json.loads(self.metadata)
            found = {key: metadata[key] for key in ("task", "labels", "preprocessing")}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BundleError(f"model {spec.name}: the file's metadata cannot be read ({one_line(error)})") from error
        expected = {"task": spec.name, "labels": list(spec.labels), "preprocessing": dict(spec.preprocessing)}
        for key, value in expected.items():
            if found[key] != value:
                raise BundleError(
                    f"model {spec.name}: {key} of the file's metadata and of the manifest differ; export it again"
                )

    def _check_tensors(self, what: str, expected: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> None:
        declared = {tensor.name: (tensor.dtype, tensor.row) for tensor in expected}
        actual = {tensor.name: (tensor.dtype, tensor.row) for tensor in found}
        if declared != actual:
            raise BundleError(f"model {self._spec.name}: the file's {what} is {actual}, the manifest says {declared}")
