"""What runs a model's file: onnxruntime or LiteRT, behind one face.

An engine says what the file holds and answers batches; whether that is what was asked for is `facexp.session`'s to
judge. Both libraries are imported on first use: names, labels and geometry work without either.
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
"""Under this name a model's file carries JSON with what its manifest says about it."""

_PROVIDERS: dict[str, list[str]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}
_DTYPES: dict[str, str] = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
# onnxruntime reports a provider that cannot start as log lines; here that becomes one error instead
_LOG_FATAL = 4
_LOG_WARNING = 2


class Engine(Protocol):
    """A loaded model on one device."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: str | None
    """The JSON text that the file carries under METADATA."""

    def run(self, name: str, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Output name -> array with a row per input, for a batch of at least one to the input called `name`.

        Several threads may ask at once.
        """
        ...


class OnnxEngine:
    """A model in onnxruntime, on the CPU or on CUDA."""

    def __init__(self, model: bytes, name: str, device: str, threads: int | None) -> None:
        """Load the bytes of an ONNX file; `name` is for messages. DeviceError, EngineError."""
        self.session = onnx_session(model, name, device, threads)
        self.inputs = tuple(map(_onnx_tensor, self.session.get_inputs()))
        self.outputs = tuple(map(_onnx_tensor, self.session.get_outputs()))
        self.metadata: str | None = self.session.get_modelmeta().custom_metadata_map.get(METADATA)
        self._names = [output.name for output in self.outputs]
        # on the CPU onnxruntime answers as many threads as ask; a GPU does one thing after the other anyway
        self._turns = threading.Lock() if device == "cuda" else contextlib.nullcontext()

    def run(self, name: str, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """All rows at once."""
        with self._turns:
            answers = self.session.run(self._names, {name: batch})
        return dict(zip(self._names, answers, strict=True))


class LiteRtEngine:
    """A model in LiteRT, on the CPU, one row at a time: there it is as fast as with many."""

    def __init__(self, model: bytes, name: str, device: str, threads: int | None) -> None:
        """Load the bytes of a TFLite file; `name` is for messages. DeviceError, EngineError."""
        interpreter = _import("ai_edge_litert.interpreter", "ai-edge-litert", "litert")
        if device != "cpu":
            raise DeviceError(f"device '{device}': LiteRT runs here on the CPU alone; use the onnxruntime backend")
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
        # it has one place for its input and one for its answer
        self._turns = threading.Lock()

    def run(self, name: str, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """A row at a time: the file takes one."""
        rows: dict[str, list[NDArray[np.float32]]] = {key: [] for key in self._outputs}
        for row in batch:
            with self._turns:
                self.interpreter.set_tensor(self._inputs[name], row[None])
                self.interpreter.invoke()
                for key, index in self._outputs.items():
                    rows[key].append(self.interpreter.get_tensor(index))
        return {key: np.concatenate(found) for key, found in rows.items()}


ENGINES: dict[str, Callable[[bytes, str, str, int | None], Engine]] = {"onnx": OnnxEngine, "tflite": LiteRtEngine}
"""Format of a file -> what runs it."""


def has_cuda() -> bool:
    """Whether this onnxruntime was built for CUDA, which promises nothing: only a live session tells."""
    return "CUDAExecutionProvider" in _onnxruntime().get_available_providers()


def has_onnxruntime() -> bool:
    """Whether onnxruntime can be imported, and is more than the empty folder that an uninstalled one may leave."""
    try:
        return hasattr(_onnxruntime(), "InferenceSession")
    except DeviceError:
        return False


def tflite_metadata(model: bytes) -> str | None:
    """The JSON text in the metadata of a TFLite file, None where there is none; needs ai-edge-litert."""
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
    """A live onnxruntime session on "cpu" or "cuda"; `name` is for messages. DeviceError, EngineError.

    `any_size` is for pictures of ever other sizes: onnxruntime would keep a plan of its memory for each.
    """
    runtime = _onnxruntime()
    if device == "cuda" and not has_cuda():
        raise DeviceError(
            f"device 'cuda': onnxruntime {runtime.__version__} here has no CUDA; "
            'uninstall onnxruntime, then run: pip install "facexp[gpu]"'
        )
    options = runtime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = not any_size
    # idle threads that spin take the cores from whatever runs next: on 2 cores, with the detector in OpenCV, 55 ms of
    # CPU a frame against 24
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    if device == "cuda":
        # a failure to load CUDA's libraries goes through the process-wide logger, whose level cannot be asked for
        runtime.set_default_logger_severity(_LOG_FATAL)
        _load_nvidia_wheels(runtime)
    try:
        # without `enable_fallback=0` onnxruntime would print to stdout and go on with the CPU
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
            f"device '{device}': the live session runs on {running[0]}; check the NVIDIA driver (nvidia-smi) and that "
            f"the CUDA and cuDNN versions which onnxruntime-gpu {runtime.__version__} needs are installed"
        )
    return session


def _load_nvidia_wheels(runtime: Any) -> None:
    # pip puts CUDA's libraries where the system does not look for them; onnxruntime finds them there since 1.21
    preload = getattr(runtime, "preload_dlls", None)
    if preload is not None:
        # it prints on stdout what it does not find; whether that matters, the session tells
        with contextlib.redirect_stdout(io.StringIO()):
            preload()


def _onnxruntime() -> Any:
    return _import("onnxruntime", "onnxruntime", "cpu")


def _import(module: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DeviceError(f'{package} cannot be imported ({error}); run: pip install "facexp[{extra}]"') from error
