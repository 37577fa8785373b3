"""Conversion of float32 ONNX to float16 ONNX, for GPUs: half the size. Input, head and outputs are not converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx.utils import Extractor
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from facexp_export.onnx_float import save_checked, tidy
from facexp_export.quantize import head_nodes
from facexp_export.tasks import INPUT_NAME, Kind


def write_float16(float32: Path, float16: Path, kind: Kind, description: str) -> None:
    """Convert the file `float32`: uint8 input, trunk in half precision, head and outputs in float32.

    A soft-argmax in half precision would round positions in a crop of 96 px to steps of 0.06 px. Trunk and head are
    separated and joined again, because the converter casts values between two float32 nodes to half precision and back.
    `description` is stored in the file's metadata.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(float32))
    outputs = [value.name for value in model.graph.output]
    between = _inputs_of(model.graph, set(head_nodes(model.graph.node, kind)))
    parts = Extractor(model)
    head = parts.extract_model(between, outputs)
    trunk = convert_float_to_float16(parts.extract_model([INPUT_NAME], between), keep_io_types=True)
    # the converter appends its casts at the end of the node list
    OnnxModel.graph_topological_sort(trunk.graph, is_deterministic=True)
    _append(trunk.graph, head.graph)
    tidy(trunk, model.graph.name, {INPUT_NAME, *outputs})
    save_checked(trunk, float16, description)


def _append(trunk: Any, head: Any) -> None:
    """Append the nodes and weights of `head` to `trunk`, whose outputs are its inputs.

    Weights of `head` get a prefix, so that names do not clash.
    """
    own = {tensor.name: f"head_{tensor.name}" for tensor in head.initializer}
    for tensor in head.initializer:
        tensor.name = own[tensor.name]
    for node in head.node:
        node.input[:] = [own.get(value, value) for value in node.input]
    trunk.node.extend(head.node)
    trunk.initializer.extend(head.initializer)
    del trunk.output[:]
    trunk.output.extend(head.output)


def _inputs_of(graph: Any, head: set[str]) -> list[str]:
    """Return the names of the values that the nodes named in `head` take from the other nodes."""
    weights = {tensor.name for tensor in graph.initializer}
    own = {output for node in graph.node if node.name in head for output in node.output}
    taken = (value for node in graph.node if node.name in head for value in node.input)
    return list(dict.fromkeys(value for value in taken if value and value not in weights | own))
