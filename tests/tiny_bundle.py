"""A valid model bundle of a few kilobytes, with which the whole runtime is tested offline in milliseconds.

Its networks have fixed weights, and their outputs can be worked out by hand:

- keypoints: an average face (MEAN_SHAPE), shifted to the centroid of the brightness, so that the points follow what the
  picture shows; a crop of one gray gives MEAN_SHAPE itself. The int8 file's points are INT8_SHIFT pixels further right.
- emotion: the crop's mean brightness b selects the class round(b / 255 * 6) in the order of SEVEN (with N labels the
  class round(b / 255 * (N - 1))), with more confidence the closer b is to the middle of the class. The logits of the
  second head are twice as large; those of the int8 file are half as large.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from facexp.geometry import KEYPOINTS
from facexp.labels import SEVEN

MEAN_SHAPE: NDArray[np.float32] = np.array(
    [
        *([66, 36], [29, 36], [59, 37], [74, 37], [36, 37], [21, 37]),
        *([56, 28], [80, 29], [39, 28], [15, 29]),
        *([48, 58], [63, 74], [32, 74], [47.5, 71], [47.5, 82]),
    ],
    np.float32,
)
"""(15, 2) pixels of the 96 px crop."""
TEMPLATE: NDArray[np.float32] = (MEAN_SHAPE * 0.44 + 2.5).astype(np.float32)
"""(15, 2) pixels of the 48 px crop."""
INT8_SHIFT = 0.25

_OPSET, _IR = 18, 9


def build(
    directory: Path,
    answer: NDArray[np.float32] = MEAN_SHAPE,
    framing: tuple[float, float, float] = (1, 0, 0),
    labels: Sequence[str] = SEVEN,
) -> Path:
    """Write the bundle and return its directory.

    `answer` are the (15, 2) points that the keypoints network gives before it shifts them, `framing` the scale, dx and
    dy in the manifest, and `labels` the classes of the emotion network.
    """
    directory.mkdir(parents=True, exist_ok=True)
    scale, dx, dy = framing
    models = {
        "keypoints": {
            "files": {
                "float32.onnx": _save(directory, "keypoints.float32.onnx", _keypoints(answer)),
                "int8.onnx": _save(directory, "keypoints.int8.onnx", _keypoints(answer + np.float32([INT8_SHIFT, 0]))),
            },
            "input": {"name": "image", "dtype": "uint8", "shape": ["batch", 96, 96, 1]},
            "outputs": [{"name": "keypoints", "dtype": "float32", "shape": ["batch", 15, 2]}],
            "labels": list(KEYPOINTS),
            "preprocessing": {
                "colour": "gray",
                "size": 96,
                "framing": {"scale": scale, "dx": dx, "dy": dy},
                "mean_shape": MEAN_SHAPE.tolist(),
            },
        },
        "emotion": {
            "files": {
                "float32.onnx": _save(directory, "emotion.float32.onnx", _emotion(1.0, len(labels))),
                "int8.onnx": _save(directory, "emotion.int8.onnx", _emotion(0.5, len(labels))),
            },
            "input": {"name": "image", "dtype": "uint8", "shape": ["batch", 48, 48, 1]},
            "outputs": [
                {"name": name, "dtype": "float32", "shape": ["batch", len(labels)]} for name in ("fer2013", "ferplus")
            ],
            "labels": list(labels),
            "preprocessing": {
                "colour": "gray",
                "size": 48,
                "template": TEMPLATE.tolist(),
                "heads": ["ferplus", "fer2013"],
            },
        },
    }
    for model in models.values():
        model |= {"training": {"data": "none"}, "figures": [], "quantized": {}, "versions": {"onnx": onnx.__version__}}
    manifest = {
        "schema": 2,
        "name": "tiny",
        "version": "0.0.1",
        "created": "2026-11-20",
        "terms": "for tests",
        "models": models,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return directory


def emotion_probabilities(brightness: float, head: str) -> NDArray[np.float64]:
    """Return the (7,) probabilities of a head of the float32 emotion network for a crop of that mean brightness."""
    weights = np.exp(-4 * {"fer2013": 1.0, "ferplus": 2.0}[head] * (brightness / 255 * 6 - np.arange(7)) ** 2)
    return np.asarray(weights / weights.sum())


def _keypoints(answer: NDArray[np.float32]) -> onnx.ModelProto:
    offsets = np.arange(96, dtype=np.float32) - 47.5
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        # the darkest pixel has weight 0, however bright the crop is
        helper.make_node("ReduceMin", ["cast", "all"], ["darkest"], keepdims=1),
        helper.make_node("Sub", ["cast", "darkest"], ["weights"]),
        helper.make_node("Mul", ["weights", "columns"], ["to_right"]),
        helper.make_node("Mul", ["weights", "rows"], ["to_bottom"]),
        helper.make_node("Concat", ["to_right", "to_bottom"], ["moments"], axis=3),
        helper.make_node("ReduceSum", ["moments", "plane"], ["moment"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "plane"], ["mass"], keepdims=0),
        helper.make_node("Max", ["mass", "one"], ["divisor"]),
        helper.make_node("Div", ["moment", "divisor"], ["shift"]),
        helper.make_node("Unsqueeze", ["shift", "one_axis"], ["shift_row"]),
        helper.make_node("Add", ["shift_row", "answer"], ["keypoints"]),
    ]
    constants = {
        "all": np.array([1, 2, 3], np.int64),
        "plane": np.array([1, 2], np.int64),
        "one_axis": np.array([1], np.int64),
        "one": np.array([1], np.float32),
        "columns": offsets[None, None, :, None],
        "rows": offsets[None, :, None, None],
        "answer": np.asarray(answer, np.float32)[None],
    }
    return _model(nodes, constants, 96, {"keypoints": [15, 2]})


def _emotion(logit_scale: float, classes: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["cast", "axes"], ["brightness"], keepdims=0),
        helper.make_node("Mul", ["brightness", "scale"], ["place"]),
        helper.make_node("Sub", ["place", "classes"], ["distance"]),
        helper.make_node("Mul", ["distance", "distance"], ["square"]),
        helper.make_node("Mul", ["square", "first"], ["fer2013"]),
        helper.make_node("Mul", ["square", "second"], ["ferplus"]),
    ]
    constants = {
        "axes": np.array([1, 2], np.int64),
        "scale": np.array([(classes - 1) / 255], np.float32),
        "classes": np.arange(classes, dtype=np.float32),
        "first": np.array([-4 * logit_scale], np.float32),
        "second": np.array([-8 * logit_scale], np.float32),
    }
    return _model(nodes, constants, 48, {"fer2013": [classes], "ferplus": [classes]})


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.generic]], size: int, outputs: dict[str, list[int]]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", size, size, 1])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *row]) for name, row in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    onnx.checker.check_model(model)
    return model


def _save(directory: Path, name: str, model: onnx.ModelProto) -> dict[str, str | int]:
    content = model.SerializeToString()
    (directory / name).write_bytes(content)
    return {"file": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
