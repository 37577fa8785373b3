"""Constants replace what onnxruntime would compute at each run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from facexp.bundle import Bundle
from facexp_export.onnx_shapes import fold_constants


def enlarging(open_rows: bool = False) -> Any:
    """(N, 2, 3, 1) uint8 -> (N, 4, 3, 1) float32: halved, plus 1, each row twice, reshaped to a computed shape.

    With `open_rows` the number of rows is as unknown as the batch size.
    """
    weights = {
        "half": np.float32(0.5),
        "ones": np.ones(1, np.float32),
        "axis": np.array([2], np.int64),
        "twice": np.array([1, 1, 2, 1, 1], np.int64),
        "rows": np.array([4], np.int64),
        "first": np.array([0], np.int64),
        "last": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "half"], ["halved"]),
        helper.make_node("Add", ["ones", "halved"], ["raised"]),
        helper.make_node("Unsqueeze", ["raised", "axis"], ["parted"]),
        helper.make_node("Tile", ["parted", "twice"], ["tiled"]),
        helper.make_node("Shape", ["raised"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch_size"]),
        helper.make_node("Gather", ["shape", "last"], ["columns"]),
        helper.make_node("Concat", ["batch_size", "rows", "columns"], ["target"], axis=0),
        helper.make_node("Reshape", ["tiled", "target"], ["enlarged"]),
    ]
    if open_rows:
        nodes[8].input[1] = "unknown_rows"
        nodes.insert(8, helper.make_node("Size", ["image"], ["size"]))
        nodes.insert(9, helper.make_node("Div", ["size", "batch_size"], ["pixels"]))
        nodes.insert(10, helper.make_node("Sub", ["pixels", "two"], ["unknown_rows"]))
        weights["two"] = np.array([2], np.int64)
    graph = helper.make_graph(
        nodes,
        "enlarging",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 2, 3, 1])],
        [helper.make_tensor_value_info("enlarged", TensorProto.FLOAT, ["batch", None, None, None])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def answer(model: Any, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (enlarged,) = session.run(None, {"image": image})
    return np.asarray(enlarged)


@pytest.mark.parametrize("count", [1, 3])
def test_the_arithmetic_is_removed_and_the_answers_are_the_same(count: int) -> None:
    """Guards against a shape that fits only one batch size, and a scalar that changes the rank of the result."""
    image = np.random.default_rng(0).integers(0, 256, (count, 2, 3, 1), np.uint8)
    model = enlarging()
    fold_constants(model)
    assert Counter(node.op_type for node in model.graph.node) == Counter(
        ("Cast", "Mul", "Add", "Unsqueeze", "Tile", "Reshape")
    )
    found, expected = answer(model, image), answer(enlarging(), image)
    assert found.shape == (count, 4, 3, 1)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, 1 + np.repeat(image, 2, axis=1) / 2)


def test_scalars_get_the_rank_of_the_other_operand() -> None:
    """Guards against the slow path of onnxruntime, with the scalar on either side of an operation."""
    model = enlarging()
    fold_constants(model)
    dims = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Mul", "Add"):
            assert [dims[value] for value in node.input if value in dims] == [[1, 1, 1, 1]]


def test_a_shape_with_two_unknown_dimensions_is_not_folded() -> None:
    """Guards against -1 for two dimensions, which Reshape refuses."""
    image = np.random.default_rng(0).integers(0, 256, (1, 2, 3, 1), np.uint8)
    model = enlarging(open_rows=True)
    fold_constants(model)
    assert "Shape" in {node.op_type for node in model.graph.node}
    np.testing.assert_array_equal(answer(model, image), answer(enlarging(), image))


@pytest.mark.parametrize("shipped", [False, True], ids=["exported", "shipped"])
def test_no_int8_file_computes_shapes(request: pytest.FixtureRequest, shipped: bool) -> None:
    """Guards against an export that skips this step, and shipped files from before it."""
    loaded = Bundle.load() if shipped else Bundle.load(request.getfixturevalue("bundle").directory)
    for model in (loaded.keypoints, loaded.emotion):
        graph = onnx.load_from_string(loaded.read(model, "int8.onnx")).graph
        assert "Shape" not in {node.op_type for node in graph.node}
        ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
        factors = {value for node in graph.node if node.op_type == "Mul" for value in node.input if value in ranks}
        assert factors
        assert all(ranks[factor] > 0 for factor in factors)
