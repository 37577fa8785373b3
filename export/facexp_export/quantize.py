"""Conversion of float32 ONNX to int8 ONNX: convolutions in integers, except the first one and those of the head.

Static quantization in the QDQ format, with one scale per output channel of a weight. Activations are unsigned, because
signed ones run four times slower on x86 in residual networks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from facexp_export.errors import ExportError
from facexp_export.onnx_float import save_checked, tidy
from facexp_export.tasks import INPUT_NAME, Kind

QUANTIZED = ("Conv", "Add", "Relu")
"""Types of quantized nodes. They include the additions and activations between convolutions, because only then does
onnxruntime run the whole trunk in integers."""

_BATCH = 64
"""Number of crops per calibration run."""


def write_int8(
    float32: Path, int8: Path, crops: NDArray[np.uint8], kind: Kind, method: str, description: str
) -> dict[str, int]:
    """Quantize the trunk of the file `float32`, calibrated on `crops`, uint8 (N, size, size, 1), and write `int8`.

    `method` is the calibration method: "MinMax", "Percentile" or "Entropy". `description` is stored in the file's
    metadata. Returns the numbers of convolutions that run in integers and in float. Raises ExportError if a convolution
    of the trunk was not quantized.
    """
    prepared = int8.with_name(f"{int8.stem}.prepared.onnx")
    with _quiet():
        # onnx's own shape inference is enough; the symbolic one fails on resized maps with a dynamic batch dimension
        quant_pre_process(float32, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        in_float = [*stem_nodes(graph), *head_nodes(graph.node, kind)]
        quantize_static(
            prepared,
            int8,
            Crops(crops, _BATCH),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # 7-bit weights: x86 without VNNI adds two products in 16 bits, which saturates with 8 bits, so the answers
            # there would differ from those that were verified; the eighth bit gains only 0.002 to 0.03 px
            reduce_range=True,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=in_float,
            calibrate_method=CalibrationMethod[method],
        )
    prepared.unlink()
    model = onnx.load(int8)
    total, quantized = _convolutions(model.graph)
    wanted = sum(node.op_type == "Conv" and node.name not in in_float for node in graph.node)
    if quantized != wanted or not wanted:
        raise ExportError(f"{int8.name}: {quantized} of {wanted} convolutions of the trunk were quantized")
    tidy(model, graph.name, {INPUT_NAME, *(value.name for value in model.graph.output)})
    save_checked(model, int8, description)
    return {"int8_convolutions": quantized, "float32_convolutions": total - quantized}


def stem_nodes(graph: Any) -> list[str]:
    """Return the names of the first convolution and of the activation after it, which stay in float.

    This convolution sums over nine pixels of one gray plane, too few for the rounding errors of the weights to average
    out. In integers it caused 37% of the squared displacement of the keypoints, and was no faster.
    """
    first = next(node for node in graph.node if node.op_type == "Conv")
    after = [node.name for node in graph.node if node.op_type == "Relu" and node.input[0] == first.output[0]]
    return [first.name, *after]


def head_nodes(nodes: Sequence[Any], kind: Kind) -> list[str]:
    """Return the names of the head's nodes, which stay in float.

    The head begins after the last convolutions, at the first node whose type is not in QUANTIZED. For points it
    includes the last convolution, whose maps are the logits of a soft-argmax.
    """
    feeds_convolution: set[object] = set()
    for node in reversed(nodes):
        if any(output in feeds_convolution for output in node.output) or node.op_type == "Conv":
            feeds_convolution.update(node.input)
    head: list[str] = []
    in_head: set[object] = set()
    for node in nodes:
        if any(output in feeds_convolution for output in node.output):
            continue
        opens = node.op_type not in QUANTIZED or (kind == "points" and node.op_type == "Conv")
        if opens or any(value in in_head for value in node.input):
            head.append(node.name)
            in_head.update(node.output)
    return head


def _convolutions(graph: Any) -> tuple[int, int]:
    """Return the number of convolutions, and of those whose inputs and weights are all quantized."""
    dequantized = {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    return len(convolutions), sum(all(value in dequantized for value in node.input) for node in convolutions)


class Crops(CalibrationDataReader):  # type: ignore[misc]
    """Reader that passes uint8 crops (N, size, size, 1) to onnxruntime's tools, `batch` at a time."""

    def __init__(self, crops: NDArray[np.uint8], batch: int) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter(np.split(crops, range(batch, len(crops), batch)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next batch as inputs of a session; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the quantizer's warnings on the root logger, which would appear on the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
