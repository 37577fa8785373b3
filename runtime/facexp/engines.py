"""Engines that run model files, with one interface for onnxruntime and LiteRT.

An engine describes the tensors and metadata of a file and runs batches; `facexp.session` checks them against the
manifest. Both libraries are imported on first use, so that names, labels and geometry work without either.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facexp.bundle import TensorSpec
from facexp.cores import cores
from facexp.errors import DeviceError, EngineError, one_line

METADATA = "facexp"
"""The name of the metadata entry in which a model file carries what the manifest says about it, as JSON."""

_PROVIDERS: dict[str, list[str]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}
_DTYPES: dict[str, str] = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
# onnxruntime logs several lines when a provider cannot start; they are silenced, since facexp raises one error instead
_LOG_FATAL = 4
_LOG_WARNING = 2


class Engine(Protocol):
    """A loaded model on one device."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: str | None
    """The JSON text that the file carries under METADATA; None if there is none."""

    def run(self, name: str, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Run a batch of at least one row, given to the input called `name`.

        The result maps each output's name to an array with one row for each row of the batch. Several threads may call
        it at once.
        """
        ...


class OnnxEngine:
    """A model in onnxruntime, on the CPU or on CUDA."""

    def __init__(self, model: bytes, name: str, device: str, threads: int | None) -> None:
        """Load the bytes of an ONNX file; `name` is used in messages. Raises as `onnx_session` does."""
        self.session = onnx_session(model, name, device, threads)
        self.inputs = tuple(map(_onnx_tensor, self.session.get_inputs()))
        self.outputs = tuple(map(_onnx_tensor, self.session.get_outputs()))
        self.metadata: str | None = self.session.get_modelmeta().custom_metadata_map.get(METADATA)
        self._names = [output.name for output in self.outputs]
        # on the CPU onnxruntime runs any number of threads in parallel; a GPU runs one call after the other anyway
        self._lock = threading.Lock() if device == "cuda" else contextlib.nullcontext()

    def run(self, name: str, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Run all rows in one call; see `Engine.run`."""
        with self._lock:
            outputs = self.session.run(self._names, {name: batch})
        return dict(zip(self._names, outputs, strict=True))


class LiteRtEngine:
    """A model in LiteRT, on the CPU, one row at a time: in LiteRT larger batches are no faster."""

    def __init__(self, model: bytes, name: str, device: str, threads: int | None) -> None:
        """Load the bytes of a TFLite file; `name` is used in messages.

        `threads` limits the interpreter's threads; None means one for each core that this process may use.
        Raises DeviceError when LiteRT is missing or the device is not "cpu", EngineError when the file cannot be
        loaded.
        """
        interpreter = _import("ai_edge_litert.interpreter", "ai-edge-litert", "litert")
        if device != "cpu":
            raise DeviceError(f"device '{device}': facexp runs LiteRT only on the CPU; use the onnxruntime backend")
        try:
            self.interpreter = interpreter.Interpreter(model_content=model, num_threads=threads or cores())
            self.interpreter.allocate_tensors()
            signature = self.interpreter.get_signature_runner()
            inputs, outputs = signature.get_input_details(), signature.get_output_details()
            self.inputs, self.outputs = (
                tuple(
                    TensorSpec(key, np.dtype(item["dtype"]).name, tuple(map(int, item["shape"][1:])))
                    for key, item in details.items()
                )
                for details in (inputs, outputs)
            )
            self.metadata = tflite_metadata(model)
        except Exception as error:
            raise EngineError(f"model {name} cannot be loaded by LiteRT: {one_line(error)}") from error
        self._inputs = {key: item["index"] for key, item in inputs.items()}
        self._outputs = {key: item["index"] for key, item in outputs.items()}
        # the interpreter has a single set of input and output buffers
        self._lock = threading.Lock()

    def run(self, name: str, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Run the rows one by one, since the file takes a batch of one; see `Engine.run`."""
        rows: dict[str, list[NDArray[np.float32]]] = {key: [] for key in self._outputs}
        for row in batch:
            with self._lock:
                self.interpreter.set_tensor(self._inputs[name], row[None])
                self.interpreter.invoke()
                for key, index in self._outputs.items():
                    rows[key].append(self.interpreter.get_tensor(index))
        return {key: np.concatenate(parts) for key, parts in rows.items()}


ENGINES: dict[str, Callable[[bytes, str, str, int | None], Engine]] = {"onnx": OnnxEngine, "tflite": LiteRtEngine}
"""File format -> the class of its engine."""


def has_cuda() -> bool:
    """Whether this onnxruntime was built with CUDA. Only a live session shows whether CUDA works on this machine.

    Raises DeviceError where onnxruntime cannot be imported.
    """
    return "CUDAExecutionProvider" in _onnxruntime().get_available_providers()


def has_onnxruntime() -> bool:
    """Whether onnxruntime can be imported and is not just the empty folder that uninstalling it may leave behind."""
    try:
        return hasattr(_onnxruntime(), "InferenceSession")
    except DeviceError:
        return False


def tflite_metadata(model: bytes) -> str | None:
    """The JSON text in a TFLite file's METADATA entry; None where there is none. Needs ai-edge-litert."""
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    content = schema.Model.GetRootAs(model, 0)
    for index in range(content.MetadataLength()):
        entry = content.Metadata(index)
        if entry.Name() == METADATA.encode():
            return bytes(content.Buffers(entry.Buffer()).DataAsNumpy()).decode("utf-8")
    return None


def _onnx_tensor(node: Any) -> TensorSpec:
    return TensorSpec(node.name, _DTYPES.get(node.type, node.type), tuple(node.shape[1:]))


def onnx_session(model: bytes, name: str, device: str, threads: int | None, *, any_size: bool = False) -> Any:
    """Create an onnxruntime session on "cpu" or "cuda"; `name` is used in messages.

    `threads` limits the threads inside one operator; None leaves the number to onnxruntime. `any_size` is for inputs
    of many different sizes: it turns off the memory plan that onnxruntime would keep for each.
    Raises DeviceError when onnxruntime is missing or the session does not run on the device, EngineError when the
    model cannot be loaded on the CPU.
    """
    runtime = _onnxruntime()
    if device == "cuda" and not has_cuda():
        raise DeviceError(
            f"device 'cuda': the installed onnxruntime {runtime.__version__} does not support CUDA; "
            'uninstall onnxruntime, then run: pip install "facexp[gpu]"'
        )
    options = runtime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = not any_size
    # Idle threads that spin take CPU time from whatever runs next: on 2 cores, with the detector in OpenCV, a frame
    # took 55 ms of CPU time with spinning and 24 without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    if device == "cuda":
        # A failure to load CUDA's libraries is logged by the process-wide logger. Its level cannot be read, so it is
        # set to the default afterwards.
        runtime.set_default_logger_severity(_LOG_FATAL)
        _load_nvidia_wheels(runtime)
    try:
        # without `enable_fallback=0` onnxruntime would print to stdout and continue on the CPU
        session = runtime.InferenceSession(model, options, providers=_PROVIDERS[device], enable_fallback=0)
    except Exception as error:
        kind = DeviceError if device == "cuda" else EngineError
        raise kind(f"model {name} cannot be loaded on {device}: {one_line(error)}") from error
    finally:
        if device == "cuda":
            runtime.set_default_logger_severity(_LOG_WARNING)
    running = session.get_providers()
    if running[0] != _PROVIDERS[device][0]:
        raise DeviceError(
            f"device '{device}': the session runs on {running[0]}; check the NVIDIA driver (nvidia-smi) and that "
            f"the CUDA and cuDNN versions that onnxruntime-gpu {runtime.__version__} needs are installed"
        )
    return session


def _load_nvidia_wheels(runtime: Any) -> None:
    # pip installs CUDA's libraries where the system's loader does not search; onnxruntime can load them since 1.21
    preload = getattr(runtime, "preload_dlls", None)
    if preload is not None:
        # it prints the libraries that it does not find to stdout; if one is needed, creating the session fails
        with contextlib.redirect_stdout(io.StringIO()):
            preload()


def _onnxruntime() -> Any:
    return _import("onnxruntime", "onnxruntime", "cpu")


def _import(module: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DeviceError(f'{package} cannot be imported ({error}); run: pip install "facexp[{extra}]"') from error
