"""Step 5 of the proof: the layers in which a failed file differs most from the most exact ONNX file.

Both files are run, and the feature maps of their convolutions compared. Names and order of the layers differ from file
to file, so convolutions are matched by their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization.qdq_loss_debug import (
    collect_activations,
    compute_signal_to_quantization_noice_ratio,
    modify_model_output_intermediate_tensors,
)

from facexp.errors import one_line
from facexp.proof.verdict import Check
from facexp_export.errors import ExportError
from facexp_export.quantize import Crops
from facexp_export.scratch import scratch, temporary_files

CROPS = 16
"""Maximum number of crops that the files are run on."""
SHOWN = 8
"""Number of layers of a file that are reported, the worst first."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution of a file, with its output for some crops."""

    name: str
    """Name of its feature map."""
    weights: NDArray[np.float32]
    """float32 (outputs, inputs, height, width)."""
    values: NDArray[np.float32]
    """Its feature maps for all crops, flattened."""


def layers(task: str, key: str, base: Path, path: Path, crops: NDArray[np.uint8]) -> Iterator[Check]:
    """Yield the SHOWN convolutions of a file that differ most from those of `base`, an ONNX file, on uint8 crops.

    The value is the ratio of signal to difference in decibels: 40 dB is a difference of 1%, 20 dB of 10%. Raises
    ExportError if the file lacks one of the convolutions of `base` or does not run on the crops, and for a format whose
    layers cannot be read.
    """
    if path.suffix not in _READERS:
        raise ExportError(f"{path.name}: layers are compared for {', '.join(_READERS)} files")
    sample = crops[:CROPS]
    try:
        expected, actual = _onnx_layers(base, sample), _READERS[path.suffix](path, sample)
    except Exception as error:  # onnxruntime and LiteRT raise errors of many types
        raise ExportError(f"{path.name}: its layers cannot be run: {one_line(error)}") from error
    found = []
    for number, layer in enumerate(expected, 1):
        match = _match(layer, actual)
        if match is None:
            raise ExportError(f"{path.name} has no convolution like number {number} of {base.name}, {layer.name}")
        # a convolution in TFLite includes its activation
        wanted = layer.values if match.values.min() < 0 else np.maximum(layer.values, 0)
        found.append((compute_signal_to_quantization_noice_ratio(wanted, match.values), number, match.name))
    for decibels, number, name in sorted(found)[:SHOWN]:
        what = f"convolution {number} of {len(found)}, {name}"
        yield Check(what, task, key, value=float(decibels), unit="dB over the difference")


def _match(layer: Layer, others: Sequence[Layer]) -> Layer | None:
    alike = [other for other in others if other.weights.shape == layer.weights.shape]
    return max(alike, key=lambda other: _correlation(layer.weights, other.weights), default=None)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float((a * b).sum() / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def _onnx_layers(path: Path, crops: NDArray[np.uint8]) -> list[Layer]:
    graph = onnx.load(path).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            weights, scale = tensors[node.input[0]], tensors[node.input[1]]
            # quantized weights are symmetric, with one scale per output channel
            tensors[node.output[0]] = weights.astype(np.float32) * scale.reshape(-1, *[1] * (weights.ndim - 1))
    with scratch() as folder:
        watched = str(folder / "watched.onnx")
        with temporary_files():
            modify_model_output_intermediate_tensors(str(path), watched, ["Conv"])
        # one crop at a time, as in TFLite files, because a network may append mirrored crops to its batch internally
        kept = collect_activations(watched, Crops(crops, 1))
    return [
        Layer(node.output[0], np.asarray(tensors[node.input[1]], np.float32), np.concatenate(kept[node.output[0]]))
        for node in graph.node
        if node.op_type == "Conv" and node.input[1] in tensors
    ]


def _tflite_layers(path: Path, crops: NDArray[np.uint8]) -> list[Layer]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # the feature maps inside a delegate cannot be read
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), experimental_preserve_all_tensors=True, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    known = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    convolutions = [
        operation["inputs"][1:2].tolist() + operation["outputs"][:1].tolist()
        for operation in interpreter._get_ops_details()
        if operation["op_name"] == "CONV_2D"
    ]

    def read(index: int) -> NDArray[np.float32]:
        """Return a four-dimensional tensor, dequantized to float32, channels first."""
        values = interpreter.get_tensor(index).astype(np.float32)
        quantization = known[index]["quantization_parameters"]
        if len(quantization["scales"]):
            shape = [1] * values.ndim
            shape[quantization["quantized_dimension"]] = len(quantization["scales"])
            values = (values - quantization["zero_points"].reshape(shape)) * quantization["scales"].reshape(shape)
        return np.asarray(values.transpose(0, 3, 1, 2), np.float32)

    maps: dict[int, list[NDArray[np.float32]]] = {output: [] for _, output in convolutions}
    for crop in crops:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], crop[None])
        interpreter.invoke()
        for output, values in maps.items():
            values.append(read(output).ravel())
    return [
        Layer(known[output]["name"].split(";")[0], read(weights), np.concatenate(maps[output]))
        for weights, output in convolutions
    ]


_READERS: dict[str, Callable[[Path, NDArray[np.uint8]], list[Layer]]] = {
    ".onnx": _onnx_layers,
    ".tflite": _tflite_layers,
}
