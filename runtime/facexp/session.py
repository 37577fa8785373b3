"""One network on one device: the provider asked is the provider that runs, or an error says so."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facexp.bundle import ModelSpec, TensorSpec
from facexp.errors import BundleError, DeviceError

DEVICES: tuple[str, ...] = ("auto", "cpu", "cuda")
"""What a caller may ask for."""

_PROVIDERS: dict[str, list[str]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}
_DTYPES: dict[str, str] = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
# memory of a batch grows with its size and speed does not: a crowd or a folder of crops goes through in pieces
_CHUNK = 64
# onnxruntime reports a provider that cannot start as log lines; `Session` raises that as one error instead
_LOG_FATAL = 4
_LOG_WARNING = 2


def candidates(device: str) -> tuple[str, ...]:
    """The devices to try for what was asked, best first; "auto" tries CUDA where onnxruntime was built for it.

    Being in this list promises nothing: only a live `Session` tells. Raises ValueError for an unknown device.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device != "auto":
        return (device,)
    return ("cuda", "cpu") if "CUDAExecutionProvider" in _onnxruntime().get_available_providers() else ("cpu",)


class Session:
    """One model in onnxruntime, warmed up. Not for use by two threads at once."""

    def __init__(self, model: bytes, spec: ModelSpec, *, device: str, threads: int | None = None) -> None:
        """Load `model` (the bytes of an ONNX file), check that it is what `spec` says, and run it once.

        `device` is "cpu" or "cuda"; `threads` bounds the threads inside one operator, None leaves it to onnxruntime.
        Raises DeviceError when the live session does not run on `device` or onnxruntime is missing, BundleError when
        the model cannot be loaded or differs from `spec`, ValueError for an unknown device or threads < 1.
        """
        if device not in _PROVIDERS:
            raise ValueError(f"a session runs on one of {', '.join(_PROVIDERS)}, got {device!r}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be None or at least 1, got {threads}")
        self._spec = spec
        self._device = device
        self._session = _open(model, spec.name, device, threads)
        self._check_tensors("input", (spec.input,), self._session.get_inputs())
        self._check_tensors("output", spec.outputs, self._session.get_outputs())
        self._names = [output.name for output in spec.outputs]
        self._warm_up()

    @property
    def device(self) -> str:
        """The device that really runs: "cpu" or "cuda"."""
        return self._device

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
        return {name: np.concatenate([part[name] for part in parts]) for name in self._names}

    def _run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        outputs = self._session.run(self._names, {self._spec.input.name: batch})
        return dict(zip(self._names, outputs, strict=True))

    def _warm_up(self) -> None:
        # the first run allocates and, on CUDA, loads kernels: a driver that cannot run shows here, not at a first face
        blank = np.zeros((1, *self._spec.input.row), np.uint8)
        try:
            self._run(blank)
        except Exception as error:
            kind = DeviceError if self._device == "cuda" else BundleError
            raise kind(f"model {self._spec.name} does not run on {self._device}: {_one_line(error)}") from error

    def _check_tensors(self, what: str, expected: Sequence[TensorSpec], found: Sequence[Any]) -> None:
        says = {tensor.name: (tensor.dtype, tensor.row) for tensor in expected}
        has = {node.name: (_DTYPES.get(node.type, node.type), tuple(node.shape[1:])) for node in found}
        if says != has:
            raise BundleError(f"model {self._spec.name}: the file's {what} is {has}, the manifest says {says}")


def _open(model: bytes, name: str, device: str, threads: int | None) -> Any:
    runtime = _onnxruntime()
    if device == "cuda" and "CUDAExecutionProvider" not in runtime.get_available_providers():
        raise DeviceError(
            f"device 'cuda': onnxruntime {runtime.__version__} here has no CUDA; "
            'uninstall onnxruntime, then run: pip install "facexp[gpu]"'
        )
    options = runtime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    options.inter_op_num_threads = 1
    # idle threads that spin take the cores from OpenCV's detector: on 2 cores, 55 ms of CPU a frame against 24
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    if device == "cuda":
        # a failure to load CUDA's libraries goes through the process-wide logger, whose level cannot be asked for
        runtime.set_default_logger_severity(_LOG_FATAL)
    try:
        # without `enable_fallback=0` onnxruntime would print to stdout and go on with the CPU
        session = runtime.InferenceSession(model, options, providers=_PROVIDERS[device], enable_fallback=0)
    except Exception as error:
        kind = DeviceError if device == "cuda" else BundleError
        raise kind(f"model {name} cannot be loaded on {device}: {_one_line(error)}") from error
    finally:
        if device == "cuda":
            runtime.set_default_logger_severity(_LOG_WARNING)
    running = session.get_providers()
    if running[0] != _PROVIDERS[device][0]:
        raise DeviceError(
            f"device '{device}': the live session runs on {running[0]}; check the NVIDIA driver (nvidia-smi) and that "
            f"the CUDA and cuDNN versions which onnxruntime-gpu {runtime.__version__} needs are installed"
        )
    return session


def _onnxruntime() -> Any:
    try:
        # imported on first use: names, labels and geometry work without it
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise DeviceError(f'onnxruntime cannot be imported ({error}); run: pip install "facexp[cpu]"') from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
