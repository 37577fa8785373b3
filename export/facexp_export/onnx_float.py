"""Conversion of a trained Keras model to float32 ONNX, with reproducible names and a full check."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from facexp.engines import METADATA
from facexp_export.errors import ExportError, first_line
from facexp_export.onnx_shapes import fold_constants
from facexp_export.tasks import INPUT_NAME, Task

OPSET = 18
"""The newest opset that tf2onnx writes; with older ones cv2.dnn gives wrong results for batches, without an error."""


def write_float32(model: Any, task: Task, path: Path, description: str) -> None:
    """Write a Keras model as float32 ONNX: opset 18, input and outputs by name, dimension 0 named "batch".

    `description` is stored in the file's metadata. Names inside the graph are numbered, so that the same weights give
    the same bytes. Raises ExportError if the graph lacks an input or output, is not valid, or still has a batch
    normalisation.
    """
    with warnings.catch_warnings():
        # caused by the converter's use of numpy; the user can do nothing about it
        warnings.simplefilter("ignore", FutureWarning)
        model.export(path, format="onnx", opset_version=OPSET, verbose=False)
    graph_model = onnx.load(path)
    fold_constants(graph_model)
    tidy(graph_model, f"facexp {task.name}", {INPUT_NAME, *model.output})
    graph = graph_model.graph
    outputs = [value.name for value in graph.output]
    if [value.name for value in graph.input] != [INPUT_NAME] or sorted(outputs) != sorted(model.output):
        raise ExportError(f"{path.name}: inputs or outputs were lost in conversion: {outputs}")
    if any(node.op_type == "BatchNormalization" for node in graph.node):
        raise ExportError(f"{path.name}: batch normalisation was not folded into the convolutions")
    save_checked(graph_model, path, description)


def tidy(model: Any, name: str, public: set[str]) -> None:
    """Make a graph reproducible and small.

    Nodes and tensors except those in `public` are renamed by kind and number, and dimension 0 of inputs and outputs is
    named "batch". Unused weights, doc strings, inferred shapes and unused opset imports are removed.
    """
    graph = model.graph
    # sorted by first use, because the converter's order of the weights changes from process to process
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
    # inferred shapes contain the converter's own symbols; each runtime infers shapes again
    del graph.value_info[:]
    used = {node.domain for node in graph.node}
    kept_sets = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept_sets)
    model.producer_name, model.producer_version = "facexp", version("facexp")


def save_checked(model: Any, path: Path, description: str) -> None:
    """Check a model, including its shapes, and write it with its description as metadata; ExportError if not valid."""
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA, value=description)
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{path.name}: not valid ONNX ({first_line(error)})") from error
    onnx.save(model, path)
