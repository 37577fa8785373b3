"""What an export writes: files, graphs, manifest and golden arrays."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import facexp
from facexp.bundle import KEYS, digest, load_models
from facexp.geometry import KEYPOINTS
from facexp.labels import SEVEN
from facexp.session import Session
from facexp_export.faces import drawn_faces
from facexp_export.onnx_float import tidy

OUTPUTS = {"keypoints": {"keypoints": (15, 2)}, "emotion": {"fer2013": (7,), "ferplus": (7,)}}
SIZES = {"keypoints": 96, "emotion": 48}
TASKS = ("keypoints", "emotion")


def read_manifest(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "manifest.json").read_text())


def test_manifest_describes_every_file(bundle: Any) -> None:
    """Guards the hashes, sizes and interface that the runtime checks a bundle by."""
    manifest = read_manifest(bundle.directory)
    assert {key: manifest[key] for key in ("schema", "name", "terms")} == {
        "schema": 2,
        # the directory's name, as the recipe names none
        "name": "bundle",
        "terms": "for research and education",
    }
    assert set(manifest["models"]) == set(TASKS)
    named = {
        "manifest.json",
        "golden.npz",
        "reference.npz",
        *(f"{task}.{what}" for task in TASKS for what in ("recipe.toml", "report.json")),
    }
    for task, model in manifest["models"].items():
        assert tuple(model["files"]) == KEYS
        for key, file in model["files"].items():
            sha256, size = digest(bundle.directory / file["file"])
            name = task if key == "savedmodel" else f"{task}.{key}"
            assert file == {"file": name, "sha256": sha256, "bytes": size}
            named.add(file["file"])
        size = SIZES[task]
        assert model["input"] == {"name": "image", "dtype": "uint8", "shape": ["batch", size, size, 1]}
        assert {item["name"]: tuple(item["shape"]) for item in model["outputs"]} == {
            name: ("batch", *shape) for name, shape in OUTPUTS[task].items()
        }
        used = {"keras", "tensorflow", "onnx", "onnxruntime", "tf2onnx", "ai-edge-litert", "ai-edge-quantizer", "numpy"}
        assert set(model["versions"]) == used
    assert {path.name for path in bundle.directory.iterdir()} == named


def test_manifest_carries_the_facts_of_the_run(bundle: Any) -> None:
    """Guards labels, measured preprocessing, figures and training facts against getting lost."""
    models = read_manifest(bundle.directory)["models"]
    assert models["keypoints"]["labels"] == list(KEYPOINTS)
    assert models["emotion"]["labels"] == list(SEVEN)
    assert models["keypoints"]["preprocessing"]["framing"] == {"scale": 1.1, "dx": 0.0, "dy": 0.05}
    assert models["emotion"]["preprocessing"]["heads"] == ["fer2013", "ferplus"]
    assert np.shape(models["emotion"]["preprocessing"]["template"]) == (15, 2)
    for model in models.values():
        assert model["figures"][0]["value"] == 0.5
        assert model["figures"][0]["model"] == "keras"
        assert model["training"]["config"]["epochs"] == 4
        assert model["training"]["rows"] == 640
        assert model["quantized"]["faces"] >= 512


def test_runtime_reads_the_bundle(bundle: Any) -> None:
    """Guards the contract between the two packages: what the export writes, the runtime loads and runs."""
    analyzer = facexp.Analyzer(device="cpu", bundle=bundle.directory)
    (face,) = analyzer.analyze_crops([drawn_faces(96)[0, :, :, 0]])
    assert face.keypoints.shape == (15, 2)
    assert sum(face.emotion.probabilities.values()) == pytest.approx(1)


def test_second_export_leaves_the_first_model_alone(bundle: Any) -> None:
    """Guards one bundle for both networks: exporting emotion must not touch keypoints."""
    assert set(bundle.first_manifest["models"]) == {"keypoints"}
    assert read_manifest(bundle.directory)["models"]["keypoints"] == bundle.first_manifest["models"]["keypoints"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_graphs_have_the_specified_interface(bundle: Any, task: str, precision: str) -> None:
    """Guards opset, names, types and the open batch dimension of the files themselves."""
    model = onnx.load(bundle.directory / f"{task}.{precision}.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    values = {
        value.name: (
            value.type.tensor_type.elem_type,
            tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in (*model.graph.input, *model.graph.output)
    }
    size = SIZES[task]
    assert values.pop("image") == (onnx.TensorProto.UINT8, ("batch", size, size, 1))
    assert values == {name: (onnx.TensorProto.FLOAT, ("batch", *shape)) for name, shape in OUTPUTS[task].items()}
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


def test_no_file_contains_paths_of_the_machine(bundle: Any, workspace: Path) -> None:
    """Guards against paths of the training machine inside a bundle."""
    for path in (path for path in bundle.directory.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert str(workspace).encode() not in content, path.name
        assert str(Path.home()).encode() + b"/" not in content, path.name


@pytest.mark.parametrize("task", TASKS)
def test_int8_runs_in_integers_between_stem_and_head(bundle: Any, task: str, tmp_path: Path) -> None:
    """Guards the speed of the int8 file (no other float convolution) and the precision of its two ends."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(bundle.directory / f"{task}.int8.onnx", options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["QLinearConv"] >= 8
    assert kinds["QLinearAdd"] >= 3
    assert kinds["Conv"] + kinds["FusedConv"] == (2 if task == "keypoints" else 1)
    recipe = read_manifest(bundle.directory)["models"][task]["quantized"]
    assert recipe["int8_convolutions"] == kinds["QLinearConv"]
    assert recipe["float32_convolutions"] == (2 if task == "keypoints" else 1)
    assert kinds["MatMul"] + kinds["Gemm"] == 2
    assert not kinds["QLinearMatMul"]
    assert not kinds["Relu"] or task == "keypoints"


@pytest.mark.parametrize("task", TASKS)
def test_int8_products_fit_into_16_bits(bundle: Any, task: str) -> None:
    """Guards equal answers on processors without VNNI: the sum of two products with 255 must not overflow."""
    graph = onnx.load(bundle.directory / f"{task}.int8.onnx").graph
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    kernels = [weight for weight in weights if weight.dtype == np.int8 and weight.ndim == 4]
    assert len(kernels) >= 8
    assert max(2 * 255 * int(np.abs(kernel.astype(int)).max()) for kernel in kernels) < 2**15


@pytest.mark.parametrize("task", TASKS)
def test_int8_is_small(bundle: Any, task: str) -> None:
    """Guards against weights that stayed in float."""
    sizes = {key: digest(path)[1] for key, path in bundle.exported[task].files.items()}
    weights = {
        key: sum(tensor.ByteSize() for tensor in onnx.load(path).graph.initializer)
        for key, path in bundle.exported[task].files.items()
        if path.suffix == ".onnx"
    }
    assert weights["int8.onnx"] < 0.6 * weights["float32.onnx"]
    assert sizes["float32.onnx"] < 400_000


@pytest.mark.parametrize("task", TASKS)
def test_golden_arrays_are_the_outputs_of_every_file(bundle: Any, task: str) -> None:
    """Guards golden.npz: the outputs of every file for the drawn faces."""
    with np.load(bundle.directory / "golden.npz", allow_pickle=False) as golden:
        crops = golden[f"{task}_input"]
        np.testing.assert_array_equal(crops, drawn_faces(SIZES[task]))
        files = read_manifest(bundle.directory)["models"][task]["files"]
        expected = {f"{task}/{key}/{output}" for key in files for output in OUTPUTS[task]}
        assert {name for name in golden.files if name.startswith(f"{task}/")} == expected
        (spec,) = (model for model in load_models(bundle.directory) if model.name == task)
        for key in files.keys() - {"savedmodel"}:
            again = Session((bundle.directory / files[key]["file"]).read_bytes(), spec, key).run(crops)
            for name, values in again.items():
                np.testing.assert_allclose(golden[f"{task}/{key}/{name}"], values, atol=1e-5)


def test_drawn_faces_differ() -> None:
    """Guards against golden faces that all give the same answer."""
    faces = drawn_faces(48)
    assert faces.shape == (4, 48, 48, 1)
    assert faces.dtype == np.uint8
    assert min(np.abs(faces[i].astype(int) - faces[j]).mean() for i in range(4) for j in range(i)) > 5


@pytest.mark.parametrize("task", TASKS)
def test_order_of_weights_does_not_matter(bundle: Any, task: str) -> None:
    """Guards equal bytes from another process, where the converter stores the weights in another order."""
    first, second = (onnx.load(bundle.directory / f"{task}.float32.onnx") for _ in range(2))
    weights = list(reversed(second.graph.initializer))
    del second.graph.initializer[:]
    second.graph.initializer.extend(weights)
    for model in (first, second):
        tidy(model, model.graph.name, {"image", *OUTPUTS[task]})
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
