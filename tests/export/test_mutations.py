"""Faulty exports cannot pass: each is detected by the step that should detect it.

A mutant is what a faulty export would write: the file is wrong, but its hash and golden answers are its own, so only
the comparison with the trained model (step 2) or with the labels (step 3) can detect it. What happens to a good bundle
afterwards is detected by steps 1 (damage) and 4 (a machine that computes or crops differently).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pandas as pd
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from facexp import analyzer, geometry
from facexp.bundle import digest, load_models, shipped
from facexp.engines import METADATA
from facexp.proof import device as proof_device
from facexp.proof.structure import structure
from facexp.proof.verdict import Check, Step
from facexp.session import Session
from facexp_export import proof_numbers, proof_task, quantize, verify
from facexp_export.errors import ExportError
from facexp_export.manifest import write_reference
from facexp_export.proof_layers import layers
from facexp_export.proof_numbers import Outputs
from facexp_export.proof_task import Labelled
from facexp_export.recipe import MIN_PARITY_CROPS, Recipe, read_recipe
from facexp_export.tasks import TASKS
from facexp_export.verify import labelled
from facexp_train.data.emotion_data import EmotionFaces, EmotionReport
from facexp_train.data.keypoint_data import read_keypoints

Model = Any
NUMBERS = 512


@dataclass(frozen=True, slots=True)
class Subject:
    """One task's shipped files, its held-out faces, and the most exact file's answers to them."""

    task: str
    exact: str
    faces: Labelled
    base: Outputs
    recipe: Recipe

    @property
    def description(self) -> str:
        """The metadata of the shipped files."""
        (entry,) = (item.value for item in self.file(self.exact).metadata_props if item.key == METADATA)
        return str(entry)

    def file(self, key: str) -> Model:
        return onnx.load(shipped() / f"{self.task}.{key}")

    def numbers(self, model: Model, key: str = "float32.onnx") -> Step:
        """Step 2. The exact file stands in for the trained model; the shipped bundle's proof has compared both."""
        reference = {name: values[:NUMBERS] for name, values in self.base.items()}
        answers = self._run(model, key, self.faces.crops[:NUMBERS])
        precision = key.partition(".")[0]
        judged = proof_numbers.compare(TASKS[self.task], key, precision, answers, reference, self.recipe.tolerances)
        return Step(2, tuple(judged))

    def losses(self, model: Model) -> Step:
        """Step 3 of an int8 file."""
        answers = self._run(model, "int8.onnx", self.faces.crops)
        judged = proof_task.compare(self.task, "int8.onnx", self.faces, self.base, answers, self.recipe.margins)
        return Step(3, tuple(judged))

    def _run(self, model: Model, key: str, crops: NDArray[np.uint8]) -> Outputs:
        (spec,) = (model for model in load_models(shipped()) if model.name == self.task)
        return Session(model.SerializeToString(), spec, key).run(crops)


@pytest.fixture(scope="session")
def points(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The keypoints' validation faces."""
    folder = tmp_path_factory.mktemp("val")
    table = pd.read_csv(data_dir / "keypoints" / "labels.csv", dtype=str)
    table[table["split"] == "val"].to_csv(folder / "labels.csv", index=False)
    (folder / "images").symlink_to(data_dir / "keypoints" / "images")
    return subject("keypoints", read_keypoints(folder, quiet=True))


@pytest.fixture(scope="session")
def emotions(data_dir: Path) -> Subject:
    """PublicTest, with FER+'s votes."""
    table = pd.read_csv(data_dir / "fer2013" / "labels.csv")
    chosen = np.flatnonzero(table["Usage"] == "PublicTest")
    assert chosen[0] // 3600 == 7
    assert chosen[-1] // 3600 == 8
    mosaics = [cv2.imread(str(data_dir / "fer2013" / f"faces_{n:02d}.png"), cv2.IMREAD_GRAYSCALE) for n in (7, 8)]
    images = np.concatenate([m.reshape(60, 48, 60, 48).swapaxes(1, 2).reshape(-1, 48, 48) for m in mosaics])
    faces = EmotionFaces(
        images=images[chosen - 7 * 3600],
        labels=table["emotion"].to_numpy(np.int64)[chosen],
        votes=table.iloc[chosen, 2:].to_numpy(np.float32),
        split=np.full(len(chosen), "val"),
        rows=chosen + 1,
        copies=np.arange(len(chosen)).astype(np.str_),
        group=np.arange(len(chosen)).astype(np.str_),
        names=np.arange(len(chosen)).astype(np.str_),
        report=EmotionReport(len(chosen), 0, 0, 0),
    )
    return subject("emotion", faces)


def subject(task: str, faces: Any) -> Subject:
    (spec,) = (model for model in load_models(shipped()) if model.name == task)
    held_out = labelled(faces, "val", spec)
    exact = spec.most_exact_key() or ""
    base = Session((shipped() / f"{task}.{exact}").read_bytes(), spec, exact).run(held_out.crops)
    return Subject(task, exact, held_out, base, read_recipe(shipped() / f"{task}.recipe.toml"))


def swap_labels(model: Model) -> Model:
    """Exchange the first two labels of the first output: angry and disgust, or the eyes."""
    graph = model.graph
    output = graph.output[0]
    (last,) = (node for node in graph.node if output.name in node.output)
    last.output[:] = ["unswapped" if name == output.name else name for name in last.output]
    order = np.arange(output.type.tensor_type.shape.dim[1].dim_value)
    order[:2] = 1, 0
    graph.initializer.append(numpy_helper.from_array(order, "order"))
    graph.node.append(helper.make_node("Gather", ["unswapped", "order"], [output.name], axis=1))
    return model


def forget_scaling(model: Model) -> Model:
    """Give the network 0 to 255 where it expects 0 to 1."""
    scalars = (tensor for tensor in model.graph.initializer if numpy_helper.to_array(tensor).size == 1)
    (scale,) = (tensor for tensor in scalars if numpy_helper.to_array(tensor).item() == np.float32(1 / 255))
    put(scale, np.ones_like(numpy_helper.to_array(scale)))
    return model


def corrupt_weights(model: Model) -> Model:
    """Replace 1% of the convolutions' weights by other numbers from each tensor's range."""
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor).copy()
        if weights.ndim == 4:
            hit = rng.random(weights.shape) < 0.01
            reach = np.abs(weights.astype(np.float64)).max()
            weights[hit] = rng.uniform(-reach, reach, int(hit.sum())).astype(weights.dtype)
            put(tensor, weights)
    return model


def four_bits(model: Model) -> Model:
    """Quantise each activation tensor in 16 steps, over the range that had 256."""
    named = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    zeros = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for name in scales:
        put(named[name], numpy_helper.to_array(named[name]) * np.float32(17))
    for name in zeros:
        zero = numpy_helper.to_array(named[name])
        put(named[name], np.asarray(np.round(zero / 17)).astype(zero.dtype))
    return model


def forget_white(model: Model) -> Model:
    """Read the pixels from a table that lacks the last value, 255, so that the file fails for crops with that value."""
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.arange(255, dtype=np.uint8), "table"))
    for node in graph.node:
        node.input[:] = ["pixels" if name == graph.input[0].name else name for name in node.input]
    graph.node.insert(0, helper.make_node("Gather", ["table", "places"], ["pixels"]))
    graph.node.insert(0, helper.make_node("Cast", [graph.input[0].name], ["places"], to=onnx.TensorProto.INT64))
    return model


def put(tensor: Any, values: NDArray[Any]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@pytest.mark.data
def test_the_shipped_files_pass(points: Subject, emotions: Subject) -> None:
    # without this test, a proof that refuses everything would pass the tests below
    for each in (points, emotions):
        assert each.numbers(each.file(each.exact), each.exact).verdict == "passed"
        assert each.numbers(each.file("int8.onnx"), "int8.onnx").verdict == "passed"
        assert each.losses(each.file("int8.onnx")).verdict == "passed"


@pytest.mark.data
@pytest.mark.parametrize("mutate", [swap_labels, forget_scaling, corrupt_weights])
def test_a_wrong_float32_file_fails_the_numbers(points: Subject, mutate: Callable[[Model], Model]) -> None:
    assert points.numbers(mutate(points.file("float32.onnx"))).verdict == "failed"


@pytest.mark.data
@pytest.mark.parametrize("mutate", [swap_labels, forget_scaling, corrupt_weights, four_bits])
def test_a_wrong_int8_file_fails_the_task(points: Subject, mutate: Callable[[Model], Model]) -> None:
    assert points.losses(mutate(points.file("int8.onnx"))).verdict == "failed"


@pytest.mark.data
def test_swapped_emotions_fail_the_task(emotions: Subject) -> None:
    step = emotions.losses(swap_labels(emotions.file("int8.onnx")))
    # the other head is unchanged
    assert [check.output for check in step.failures] == [emotions.file("int8.onnx").graph.output[0].name]


@pytest.mark.data
def test_calibrating_on_noise_fails_the_numbers(points: Subject, tmp_path: Path) -> None:
    # measured: ranges from noise cost precision everywhere, but the task less than its margin, which step 3 accepts
    noise = np.random.default_rng(0).normal(128, 20, (64, 96, 96, 1)).clip(0, 255).astype(np.uint8)
    source = shipped() / "keypoints.float32.onnx"
    quantize.write_int8(source, tmp_path / "int8.onnx", noise, "points", "MinMax", points.description)
    assert points.numbers(onnx.load(tmp_path / "int8.onnx"), "int8.onnx").verdict == "failed"


@pytest.mark.data
def test_the_comparison_of_layers_finds_the_wrong_one(points: Subject, tmp_path: Path) -> None:
    model = points.file("int8.onnx")
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    culprit = convolutions[8]
    (source,) = (node for node in model.graph.node if culprit.input[1] in node.output)
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == source.input[0])
    put(weights, np.roll(numpy_helper.to_array(weights), 1, axis=-1))
    onnx.save(model, tmp_path / "int8.onnx")
    base = shipped() / "keypoints.float32.onnx"
    found = list(layers("keypoints", "int8.onnx", base, tmp_path / "int8.onnx", points.faces.crops))
    assert found[0].what.endswith(culprit.output[0])


def failed(step: Step) -> list[Check]:
    assert step.verdict in ("passed", "failed")
    return list(step.failures)


def test_the_shipped_bundle_is_whole_and_runs_here(own_shipped: Path) -> None:
    assert failed(structure(own_shipped)) == []
    assert failed(proof_device.device(own_shipped)) == []


def test_a_truncated_file_fails_the_structure(own_shipped: Path) -> None:
    path = own_shipped / "emotion.int8.onnx"
    path.write_bytes(path.read_bytes()[:-1000])
    (check,) = failed(structure(own_shipped))
    assert (check.subject, check.what) == ("emotion int8.onnx", "sha256")


def test_corrupt_weights_fail_the_structure(own_shipped: Path) -> None:
    path = own_shipped / "keypoints.float32.onnx"
    onnx.save(corrupt_weights(onnx.load(path)), path)
    assert [(check.subject, check.what) for check in failed(structure(own_shipped))] == [
        ("keypoints float32.onnx", "sha256")
    ]


def test_a_file_that_fails_for_some_crops_fails_every_step_that_runs_it(own_shipped: Path) -> None:
    """Guards the report and status 3: the library's error ended the proof in a traceback and status 1."""
    path = own_shipped / "keypoints.int8.onnx"
    onnx.save(forget_white(onnx.load(path)), path)
    manifest = json.loads((own_shipped / "manifest.json").read_text())
    entry = manifest["models"]["keypoints"]["files"]["int8.onnx"]
    entry["sha256"], entry["bytes"] = digest(path)
    (own_shipped / "manifest.json").write_text(json.dumps(manifest))
    (spec,) = (model for model in load_models(own_shipped) if model.name == "keypoints")
    subject, recipe = verify.Subject(own_shipped, spec), read_recipe()
    crops = np.full((MIN_PARITY_CROPS, 96, 96, 1), 255, np.uint8)
    write_reference(
        own_shipped,
        TASKS["keypoints"],
        proof_numbers.crop_hashes(crops),
        {"keypoints": np.zeros((len(crops), 15, 2), np.float32)},
    )
    truth = np.full((len(crops), 15, 2), 48, np.float32)
    faces = Labelled(crops, {"keypoints": truth}, np.arange(len(crops)), ())
    steps = [
        Step(2, tuple(verify.numbers(subject, crops, recipe))),
        Step(3, tuple(verify.losses(subject, faces, recipe))),
        proof_device.device(own_shipped),
    ]
    for step in steps:
        (check,) = (check for check in failed(step) if check.file == "int8.onnx")
        assert check.what == "runs"
        assert "indices element out of data bounds" in check.note
    with pytest.raises(ExportError, match=r"keypoints\.int8\.onnx: its layers cannot be run: "):
        list(layers("keypoints", "int8.onnx", own_shipped / "keypoints.float32.onnx", path, crops))


@pytest.mark.parametrize(
    ("task", "place", "value"),
    [
        ("emotion", ["labels", 0], "disgust"),
        ("emotion", ["preprocessing", "heads"], ["ferplus"]),
        ("emotion", ["preprocessing", "template", 10, 1], 26.0),
        ("emotion", ["preprocessing", "colour"], "rgb"),
        ("keypoints", ["preprocessing", "framing", "dy"], 0.03),
        ("keypoints", ["preprocessing", "mean_shape", 0, 0], 60.0),
        ("keypoints", ["input", "shape"], ["batch", 48, 48, 1]),
        ("keypoints", ["outputs", 0, "name"], "points"),
        ("keypoints", ["files", "int8.onnx", "bytes"], 7),
        ("keypoints", ["files", "int8.onnx", "sha256"], "0" * 64),
    ],
)
def test_an_edited_manifest_fails_the_structure(own_shipped: Path, task: str, place: list[Any], value: object) -> None:
    path = own_shipped / "manifest.json"
    manifest = json.loads(path.read_text())
    node = manifest["models"][task]
    for key in place[:-1]:
        node = node[key]
    assert node[place[-1]] != value
    node[place[-1]] = value
    path.write_text(json.dumps(manifest))
    assert failed(structure(own_shipped))


def test_a_mirrored_mean_shape_fails_the_structure(own_shipped: Path) -> None:
    # left and right exchanged: the numbers have the right form and range, only their meaning is wrong
    path = own_shipped / "manifest.json"
    manifest = json.loads(path.read_text())
    shape = manifest["models"]["keypoints"]["preprocessing"]["mean_shape"]
    manifest["models"]["keypoints"]["preprocessing"]["mean_shape"] = [[95 - x, y] for x, y in shape]
    path.write_text(json.dumps(manifest))
    assert "mean_shape is a face" in [check.what for check in failed(structure(own_shipped))]


def test_swapped_colour_planes_fail_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)

    for module in (analyzer, proof_device):
        monkeypatch.setattr(module, "to_gray", from_rgb)
    assert "largest difference of the picture's crop" in [
        check.what for check in failed(proof_device.device(shipped()))
    ]


def test_a_shifted_crop_fails_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    warp = geometry.warp

    def shifted(gray: NDArray[np.uint8], matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
        return warp(gray, matrix + np.array([[0, 0, 2], [0, 0, 0]]), size)

    monkeypatch.setattr(geometry, "warp", shifted)
    found = [check.what for check in failed(proof_device.device(shipped()))]
    assert "largest difference of the picture's crop" in found
    assert "largest difference of the picture's keypoints" in found


@pytest.mark.data
def test_a_shifted_crop_is_no_crop_of_the_export(points: Subject) -> None:
    hashes = proof_numbers.crop_hashes(points.faces.crops)
    reference = proof_numbers.Reference(hashes, points.base)
    task = TASKS["keypoints"]
    assert Step(2, tuple(proof_numbers.check_reference(task, reference, points.faces.crops))).verdict == "passed"
    shifted = np.roll(points.faces.crops, 2, axis=2)
    assert Step(2, tuple(proof_numbers.check_reference(task, reference, shifted))).verdict == "failed"


def test_a_processor_that_computes_differently_fails_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Session.run

    def rounded(self: Session, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        return {name: np.round(values) for name, values in run(self, batch).items()}

    monkeypatch.setattr(Session, "run", rounded)
    found = {check.subject for check in failed(proof_device.device(shipped()))}
    assert {"keypoints float32.onnx keypoints", "emotion int8.onnx ferplus"} <= found


def test_identical_golden_answers_prove_nothing(own_shipped: Path) -> None:
    with np.load(own_shipped / "golden.npz") as arrays:
        golden = {name: arrays[name] for name in arrays.files}
    golden["emotion_input"] = np.repeat(golden["emotion_input"][:1], 4, axis=0)
    for name in [name for name in golden if name.startswith("emotion/")]:
        golden[name] = np.repeat(golden[name][:1], 4, axis=0)
    np.savez_compressed(own_shipped / "golden.npz", **golden)
    assert {check.task for check in failed(proof_device.device(own_shipped))} == {"emotion"}


def test_a_reference_with_a_constant_answer_proves_nothing() -> None:
    count = MIN_PARITY_CROPS
    crops = np.random.default_rng(0).integers(0, 256, (count, 48, 48, 1), dtype=np.uint8)
    logits = np.tile(np.eye(7, dtype=np.float32)[3], (count, 1))
    reference = proof_numbers.Reference(proof_numbers.crop_hashes(crops), {"fer2013": logits})
    step = Step(2, tuple(proof_numbers.check_reference(TASKS["emotion"], reference, crops)))
    assert [check.what for check in step.failures] == ["share of the trained model's commonest answer"]
