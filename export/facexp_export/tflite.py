"""Conversion to TFLite: float32 by TensorFlow's converter, float16 and int8 from that file by AI Edge Quantizer.

All files take one uint8 crop per call: with a fixed shape the converter can fold more constants, and LiteRT is fastest
with one crop at a time.
"""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.calibrator import Calibrator
from ai_edge_quantizer.quantizer import Quantizer
from ai_edge_quantizer.recipe_manager import RecipeManager
from ai_edge_quantizer.utils.qsv_utils import min_max_update
from numpy.typing import NDArray

from facexp.engines import METADATA
from facexp_export.errors import ExportError
from facexp_export.quantize import head_nodes
from facexp_export.tasks import INPUT_NAME, Kind, Task

SIGNATURE = "serving_default"

_Operation = qtyping.TFLOperationName
_WEIGHTED = (_Operation.CONV_2D, _Operation.FULLY_CONNECTED)
_QUANTIZED = (_Operation.CONV_2D, _Operation.ADD)
_ONNX_TYPES = {schema.BuiltinOperator.CONV_2D: "Conv", schema.BuiltinOperator.ADD: "Add"}


@dataclass(frozen=True, slots=True)
class _Node:
    """An operation in the form of an ONNX node, for `head_nodes`."""

    op_type: str
    name: str
    """Name of its first output, by which the quantizer identifies it."""
    input: tuple[int, ...]
    output: tuple[int, ...]


def write_float32(model: Any, task: Task, path: Path, description: str) -> None:
    """Write a Keras model as float32 TFLite, with a signature whose input and outputs have the bundle's names.

    `description` is stored in the file's metadata.
    """
    # imported here, because it takes seconds and the other two functions do not need it
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    spec = tf.TensorSpec((1, task.size, task.size, 1), tf.uint8, name=INPUT_NAME)
    called = tf.function(lambda image: model(image, training=False)).get_concrete_function(spec)
    # left as variables, the weights would not be operands of the file's operations, and the quantizer would miss them
    frozen = convert_variables_to_constants_v2(called)

    @tf.function(input_signature=[spec])  # type: ignore[untyped-decorator]
    def serve(image: Any) -> Any:
        return tf.nest.pack_sequence_as(called.structured_outputs, frozen(image))

    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], tf.Module())
    _save(converter.convert(), path, description)


def write_float16(float32: Path, path: Path, description: str) -> None:
    """Store the weights in half precision; the runtime that executes the file chooses the precision of computation."""
    quantizer = Quantizer(float32.read_bytes())
    half = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    for operation in _WEIGHTED:
        quantizer.update_quantization_recipe(".*", operation, half, algorithm_key="float_casting")
    _save(quantizer.quantize().quantized_model, path, description)


def write_int8(float32: Path, path: Path, crops: NDArray[np.uint8], kind: Kind, description: str) -> None:
    """Quantize the trunk, calibrated on `crops`, uint8 (N, size, size, 1); the head stays in float.

    In integers, the head of the keypoint network would give positions in steps of 0.38 px. Raises ExportError if a
    convolution of the trunk was not quantized.
    """
    quantizer = Quantizer(float32.read_bytes())
    for operation in _QUANTIZED:
        quantizer.add_static_config(".*", operation, activation_num_bits=8, weight_num_bits=8)
    head = "|".join(map(re.escape, _head(float32, kind)))
    quantizer.update_quantization_recipe(head, _Operation.ALL_SUPPORTED, algorithm_key="no_quantize")
    _save(quantizer.quantize(_ranges(quantizer, float32, crops)).quantized_model, path, description)
    floats = count_float_convolutions(path)
    if floats != (1 if kind == "points" else 0):
        raise ExportError(f"{path.name}: {floats} convolutions were not quantized, expected those of the head alone")


def _head(float32: Path, kind: Kind) -> list[str]:
    """Return the names of the head's operations, which stay in float: the same ones as in the ONNX file."""
    model = flatbuffer_utils.read_model(float32)
    graph = model.subgraphs[0]
    nodes = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        name = graph.tensors[operator.outputs[0]].name.decode()
        inputs, outputs = (tuple(map(int, values)) for values in (operator.inputs, operator.outputs))
        nodes.append(_Node(_ONNX_TYPES.get(code, "other"), name, inputs, outputs))
    return head_nodes(nodes, kind)


def _ranges(quantizer: Quantizer, float32: Path, crops: NDArray[np.uint8]) -> Any:
    """The smallest and largest value of every map over all crops.

    By itself the quantizer takes moving averages of them, which cut off what only few faces have: points were 0.15 px
    off on average instead of 0.06.
    """
    recipe = RecipeManager()
    recipe.load_quantization_recipe(quantizer.get_quantization_recipe())
    calibrator = Calibrator(float32.read_bytes(), num_threads=1, qsv_update_func=min_max_update)
    # hide the progress bar, which would push other output out of the last lines that are reported after a crash
    with contextlib.redirect_stderr(io.StringIO()):
        calibrator.calibrate({SIGNATURE: [{INPUT_NAME: crop[None]} for crop in crops]}, recipe)
    return calibrator.get_model_qsvs()


def count_float_convolutions(path: Path) -> int:
    """Return the number of convolutions of a TFLite file whose input is float32."""
    model = flatbuffer_utils.read_model(path)
    graph = model.subgraphs[0]
    convolutions = [
        operator
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.CONV_2D
    ]
    return sum(graph.tensors[operator.inputs[0]].type == schema.TensorType.FLOAT32 for operator in convolutions)


def _save(content: bytes | bytearray, path: Path, description: str) -> None:
    """Write a model with its description as metadata, instead of the converter's metadata (its versions and ids)."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    for buffer in model.buffers:
        # the quantizer stores weights after the model at absolute offsets, which change with the size of the model
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    model.description = "facexp"
    entry = schema.MetadataT()
    entry.name = METADATA
    entry.buffer = len(model.buffers)
    text = schema.BufferT()
    text.data = np.frombuffer(description.encode("utf-8"), np.uint8)
    model.buffers.append(text)
    model.metadata = [entry]
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
