"""A trained Keras model -> float32 ONNX with stable names, checked."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
from numpy.typing import NDArray

from facexp_export.errors import ExportError
from facexp_export.tasks import INPUT_NAME, Task

OPSET = 18
"""The newest that tf2onnx writes; cv2.dnn reads batches of older files wrongly, in silence."""

Outputs = dict[str, NDArray[np.float32]]


def load_model(path: Path, task: Task) -> Any:
    """RUN/model.keras as a float32 model whose output is a dict by name, ready for export.

    Raises ExportError when the file does not load or the model is not the one `task` describes.
    """
    # registers the networks' own layers, without which the file does not load
    import facexp_train.networks  # noqa: F401

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"export needs Keras on TensorFlow, it runs on {keras.backend.backend()}; set KERAS_BACKEND=tensorflow"
        )
    try:
        model = keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(f"{path}: not a Keras model that loads here ({_first_line(error)})") from error
    names = list(model.output) if isinstance(model.output, dict) else list(model.output_names)
    tensors = list(model.output.values()) if isinstance(model.output, dict) else list(model.outputs)
    wanted = (None, task.size, task.size, 1)
    if len(model.inputs) != 1 or model.inputs[0].name != INPUT_NAME or model.inputs[0].dtype != "uint8":
        found = ", ".join(f"{tensor.name} {tensor.dtype}" for tensor in model.inputs)
        raise ExportError(f"{path}: the input must be {INPUT_NAME!r}, uint8; found {found}")
    if tuple(model.inputs[0].shape) != wanted:
        raise ExportError(f"{path}: the input shape is {tuple(model.inputs[0].shape)}, expected {wanted}")
    for name, tensor in zip(names, tensors, strict=True):
        if name not in task.outputs or tuple(tensor.shape) != (None, *task.shape):
            raise ExportError(f"{path}: output {name!r} {tuple(tensor.shape)} is not of {task.name}: {task.outputs}")
    mixed = [layer.name for layer in model.layers if layer.compute_dtype != "float32"]
    # the first layer of a float32 model may keep the input's dtype
    mixed = [name for name in mixed if not isinstance(model.get_layer(name), keras.layers.InputLayer)]
    if mixed:
        raise ExportError(f"{path}: layer {mixed[0]!r} does not compute in float32; save a model rebuilt in float32")
    named = keras.Model(model.inputs, dict(zip(names, tensors, strict=True)))
    # a freshly loaded model cannot be exported before its first call
    named([np.zeros((1, *wanted[1:]), np.uint8)])
    return named


def predict(model: Any, crops: NDArray[np.uint8]) -> Outputs:
    """The Keras model's outputs by name for uint8 crops (N, size, size, 1)."""
    return {
        name: np.asarray(value, np.float32) for name, value in model.predict(crops, batch_size=64, verbose=0).items()
    }


def write_float32(model: Any, task: Task, path: Path) -> None:
    """Write the model of `load_model` as float32 ONNX: opset 18, input and outputs by name, dimension 0 named "batch".

    Names inside the graph are numbered, so that the same weights give the same bytes. Raises ExportError when the
    graph is not what the bundle promises.
    """
    with warnings.catch_warnings():
        # the converter's own use of numpy; nothing a user could do about
        warnings.simplefilter("ignore", FutureWarning)
        model.export(path, format="onnx", opset_version=OPSET, verbose=False)
    graph_model = onnx.load(path)
    tidy(graph_model, f"facexp {task.name}", {INPUT_NAME, *model.output})
    graph = graph_model.graph
    outputs = [value.name for value in graph.output]
    if [value.name for value in graph.input] != [INPUT_NAME] or sorted(outputs) != sorted(model.output):
        raise ExportError(f"{path.name}: inputs or outputs were lost in conversion: {outputs}")
    if any(node.op_type == "BatchNormalization" for node in graph.node):
        raise ExportError(f"{path.name}: batch normalisation was not folded into the convolutions")
    save_checked(graph_model, path)


def tidy(model: Any, name: str, public: set[str]) -> None:
    """Name what is inside by kind and number, name the batch dimension, drop notes and whatever is not in use."""
    graph = model.graph
    # the converter's order of the weights changes from process to process
    used_at: dict[str, int] = {}
    for node in graph.node:
        for value in node.input:
            used_at.setdefault(value, len(used_at))
    weights = sorted((item for item in graph.initializer if item.name in used_at), key=lambda item: used_at[item.name])
    del graph.initializer[:]
    graph.initializer.extend(weights)
    renamed = {"": ""} | {kept: kept for kept in public}
    for index, tensor in enumerate(graph.initializer):
        renamed[tensor.name] = tensor.name = f"w{index}"
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{index}"
        node.doc_string = ""
        for position, output in enumerate(node.output):
            if output not in renamed:
                renamed[output] = f"t{index}" if position == 0 else f"t{index}_{position}"
    for node in graph.node:
        node.input[:] = [renamed[value] for value in node.input]
        node.output[:] = [renamed[value] for value in node.output]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    graph.name = name
    graph.doc_string = model.doc_string = ""
    # inferred shapes carry the converter's own symbols; every reader infers them again
    del graph.value_info[:]
    del model.metadata_props[:]
    used = {node.domain for node in graph.node}
    kept_sets = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept_sets)
    model.producer_name, model.producer_version = "facexp", version("facexp")


def save_checked(model: Any, path: Path) -> None:
    """Check a model in full, shapes included, and write it."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{path.name}: not valid ONNX ({_first_line(error)})") from error
    onnx.save(model, path)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
