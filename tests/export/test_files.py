"""The files of a bundle: their contents and outputs, and that the same run gives the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

import facexp
from facexp.bundle import Bundle
from facexp.session import Session
from facexp_export import savedmodel
from facexp_export.faces import drawn_faces

TASKS = ("keypoints", "emotion")
TFLITE = ("float32.tflite", "float16.tflite", "int8.tflite")


def test_every_file_describes_itself(bundle: Any) -> None:
    """Guards a file that is found alone: task, labels, preprocessing, terms and version are stored inside."""
    loaded = Bundle.load(bundle.directory)
    for model in (loaded.keypoints, loaded.emotion):
        for key, file in model.files.items():
            if file.format == "savedmodel":
                continue
            metadata = json.loads(Session(loaded.read(model, key), model, key).metadata or "")
            assert metadata["task"] == model.name
            assert metadata["labels"] == list(model.labels)
            assert metadata["preprocessing"] == model.preprocessing
            assert (metadata["terms"], metadata["version"]) == (loaded.terms, loaded.version)


def test_a_file_of_another_bundle_is_refused(bundle: Any) -> None:
    """Guards against a model with other labels or another framing under a manifest with the right hash."""
    loaded = Bundle.load(bundle.directory)
    model = loaded.keypoints
    for key in ("float32.onnx", "float32.tflite"):
        content = loaded.read(model, key)
        for word, other in ((b"left_eye_center", b"left_eye_centre"), (b'"scale":1.1', b'"scale":1.2')):
            assert content.count(word) == 1
            with pytest.raises(facexp.BundleError, match="of the file's metadata and of the manifest differ"):
                Session(content.replace(word, other), model, key)
        with pytest.raises(facexp.BundleError, match="metadata cannot be read"):
            Session(content.replace(b'"task"', b'"tusk"'), model, key)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("key", TFLITE)
def test_tflite_files_have_the_specified_interface(bundle: Any, task: str, key: str) -> None:
    """Guards names, types and shapes of the files themselves: uint8 crops in, float32 out."""
    interpreter = Interpreter(str(bundle.directory / f"{task}.{key}"))
    signature = interpreter.get_signature_runner("serving_default")
    size = drawn_faces(96 if task == "keypoints" else 48).shape[1]
    (entry,) = signature.get_input_details().items()
    assert (entry[0], entry[1]["dtype"], tuple(entry[1]["shape"])) == ("image", np.uint8, (1, size, size, 1))
    rows = {"keypoints": {"keypoints": (1, 15, 2)}, "emotion": {"fer2013": (1, 7), "ferplus": (1, 7)}}[task]
    found = signature.get_output_details()
    assert {name: tuple(item["shape"]) for name, item in found.items()} == rows
    assert {item["dtype"] for item in found.values()} == {np.float32}


@pytest.mark.parametrize("task", TASKS)
def test_int8_tflite_has_an_integer_trunk_and_a_float_head(bundle: Any, task: str) -> None:
    """Guards the speed of the trunk, and against positions rounded to steps of 0.38 px."""
    model = flatbuffer_utils.read_model(bundle.directory / f"{task}.int8.tflite")
    graph = model.subgraphs[0]
    codes = {getattr(schema.BuiltinOperator, name): name for name in dir(schema.BuiltinOperator) if name.isupper()}
    kinds = [
        (codes[model.operatorCodes[operator.opcodeIndex].builtinCode], graph.tensors[operator.inputs[0]].type)
        for operator in graph.operators
    ]
    integers, floats = schema.TensorType.INT8, schema.TensorType.FLOAT32
    assert kinds.count(("CONV_2D", integers)) >= 8
    assert kinds.count(("ADD", integers)) >= 3
    assert kinds.count(("CONV_2D", floats)) == (1 if task == "keypoints" else 0)
    # nothing after the trunk goes back to integers
    names = [name for name, _ in kinds]
    assert names.count("QUANTIZE") <= 1 or names[-1] != "DEQUANTIZE"
    sizes = {key: (bundle.directory / f"{task}.{key}").stat().st_size for key in TFLITE}
    assert sizes["int8.tflite"] < sizes["float16.tflite"] < sizes["float32.tflite"]


@pytest.mark.parametrize("task", TASKS)
def test_savedmodel_has_both_signatures(bundle: Any, task: str) -> None:
    """Guards both inputs of the server: any number of crops, and encoded pictures of any size and colour."""
    loaded = Bundle.load(bundle.directory)
    model = getattr(loaded, task)
    signatures = tf.saved_model.load(str(bundle.directory / task / "1")).signatures
    assert set(signatures) == {"serving_default", "serving_encoded"}
    crops = drawn_faces(model.size)
    session = Session(loaded.read(model, "float32.onnx"), model, "float32.onnx")
    expected = session.run(crops)
    enlarged = [cv2.resize(crop, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST) for crop in crops[..., 0]]
    files = [
        cv2.imencode(".png", crops[0])[1].tobytes(),
        cv2.imencode(".png", cv2.cvtColor(crops[1], cv2.COLOR_GRAY2BGR))[1].tobytes(),
        cv2.imencode(".jpg", crops[2], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes(),
        cv2.imencode(".png", enlarged[3])[1].tobytes(),
    ]
    by_pixels = signatures["serving_default"](image=tf.constant(crops))
    by_files = signatures["serving_encoded"](encoded=tf.constant(files))
    assert set(by_pixels) == set(by_files) == set(expected)
    seen = np.stack([savedmodel._crop(tf.constant(file), model.size) for file in files])
    differences = np.abs(seen.astype(int) - crops[: len(files)])
    assert not differences[:2].any()
    # JPEG rounding and resizing change single gray levels
    assert differences[2:].mean() < 4
    for name, rows in session.run(seen).items():
        np.testing.assert_allclose(by_pixels[name], expected[name], atol=1e-3)
        np.testing.assert_allclose(by_files[name], rows, atol=1e-3)


@pytest.mark.slow
def test_an_export_without_tensorflow_gives_the_same_bytes(bundle: Any, tmp_path: Path) -> None:
    """Guards the main process against crashes of TensorFlow, and reproducible files: no clock, no ids, no addresses."""
    keys = json.dumps([*bundle.exported["emotion"].files][:-1])
    (tmp_path / "recipe.toml").write_text(f"{bundle.recipe.read_text()}[files]\nkeys = {keys}\n")
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        "from facexp_export.bundle_writer import export_run\n"
        "export_run(Path(sys.argv[1]), Path(sys.argv[2]), recipe=Path(sys.argv[3]))\n"
    )
    words = [str(bundle.runs["emotion"]), str(tmp_path / "again"), str(tmp_path / "recipe.toml")]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = {path.name: path for path in (tmp_path / "again").iterdir() if path.name.startswith("emotion.")}
    extra_files = {"emotion.recipe.toml", "emotion.report.json"}
    assert set(again) == {*extra_files, *(f"emotion.{key}" for key in (*TFLITE, *ONNX))}
    for name in again.keys() - extra_files:
        assert again[name].read_bytes() == (bundle.directory / name).read_bytes(), name


ONNX = ("float32.onnx", "float16.onnx", "int8.onnx")


@pytest.mark.parametrize("task", TASKS)
def test_float16_onnx_keeps_its_head_in_float32(bundle: Any, task: str) -> None:
    """Guards the soft-argmax against half precision, and the convolutions against staying in float32."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(bundle.directory / f"{task}.float16.onnx")).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    convolutions = [types[node.output[0]] for node in graph.node if node.op_type == "Conv"]
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert convolutions.count(full) == (1 if task == "keypoints" else 0)
    assert convolutions.count(half) >= 8
    assert {types[node.output[0]] for node in graph.node if node.op_type in ("Softmax", "MatMul")} == {full}
