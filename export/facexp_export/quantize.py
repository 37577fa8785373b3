"""float32 ONNX -> int8 ONNX: the convolutions in integers, the first one and the head in float.

Static quantization in the QDQ form, one scale per output channel of a weight. Activations are unsigned: on residual
networks signed ones run four times slower on x86.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
"""Additions and activations between convolutions too: only then does onnxruntime keep the whole trunk in integers."""

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Quantized:
    """How many convolutions run in integers, and how many do not."""

    int8_convolutions: int
    float32_convolutions: int


def write_int8(
    float32: Path, int8: Path, crops: NDArray[np.uint8], kind: Kind, method: str, description: str
) -> Quantized:
    """Quantize the trunk of `float32` with the ranges that `crops` (N, size, size, 1) uint8 give, and write `int8`.

    `method` finds the ranges: "MinMax", "Percentile" or "Entropy". `description` goes into the file's metadata.
    Raises ExportError when a convolution of the trunk stayed in float.
    """
    prepared = int8.with_name(f"{int8.stem}.prepared.onnx")
    with _quiet():
        # onnx's own shape inference is enough here; the symbolic one stumbles over resized maps of an open batch
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
            # seven bits: x86 without VNNI adds two products in 16 bits and cuts off what eight bits would give, so the
            # file would answer otherwise there than where parity was checked; the eighth bit is worth 0.002 to 0.03 px
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
    return Quantized(quantized, total - quantized)


def stem_nodes(graph: Any) -> list[str]:
    """Names of the first convolution and of the activation after it, which stay in float.

    Its sums are over the nine pixels of one gray plane: too few for the rounding of the weights to average out. In
    integers it alone made 37% of the square of the keypoints' displacement, and was no faster.
    """
    first = next(node for node in graph.node if node.op_type == "Conv")
    after = [node.name for node in graph.node if node.op_type == "Relu" and node.input[0] == first.output[0]]
    return [first.name, *after]


def head_nodes(nodes: Sequence[Any], kind: Kind) -> list[str]:
    """Names of the nodes that stay in float: all from the first node after the last convolutions that is not QUANTIZED.

    For points the last convolution is of the head too: its maps are the logits of a soft-argmax.
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
    """How many convolutions there are, and how many of them take quantized maps and quantized weights."""
    dequantized = {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    return len(convolutions), sum(all(value in dequantized for value in node.input) for node in convolutions)


class Crops(CalibrationDataReader):  # type: ignore[misc]
    """uint8 crops (N, size, size, 1) as onnxruntime's tools ask for them, `batch` at a time."""

    def __init__(self, crops: NDArray[np.uint8], batch: int) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter(np.split(crops, range(batch, len(crops), batch)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next batch as a session's input; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's advice on the root logger, which would reach the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
