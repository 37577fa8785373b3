"""A wrong export is refused, and the bundle that was there stays as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from facexp_cli.export import export_command
from facexp_export import bundle_writer, onnx_float, quantize
from facexp_export.bundle_writer import export_run
from facexp_export.errors import ExportError, ParityError


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def edit(path: Path, change: Callable[[Any], None]) -> None:
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)


def scale_input_twice(graph: Any) -> None:
    """A caller's scaling on top of the graph's own: the classic mistake."""
    for tensor in graph.initializer:
        if tensor.name in {name for node in graph.node if node.op_type == "Mul" for name in node.input}:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 255, tensor.name))


def nudge_a_weight(graph: Any) -> None:
    """One convolution's weights off by 2%."""
    name = next(node.input[1] for node in reversed(graph.node) if node.op_type == "Conv")
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.02), name))


def lose_a_range(graph: Any) -> None:
    """One activation's scale sixteen times too small: all that lies above is cut off."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    name = [node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"][4]
    weights[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights[name]) / np.float32(16), name))


def after(patch: pytest.MonkeyPatch, module: Any, function: str, precision: str, change: Callable[[Any], None]) -> None:
    """Change the file that a writing function wrote."""
    write = getattr(module, function)

    def write_and_change(*arguments: Any) -> Any:
        result = write(*arguments)
        paths = [argument for argument in arguments if isinstance(argument, Path) and precision in argument.name]
        edit(paths[-1], change)
        return result

    patch.setattr(module, function, write_and_change)


@pytest.fixture
def shipped(bundle: Any, tmp_path: Path) -> Path:
    """A copy of the good bundle, alone in its directory."""
    directory = tmp_path / "place" / "bundle"
    shutil.copytree(bundle.directory, directory)
    return directory


@pytest.mark.parametrize("task", ["keypoints", "emotion"])
@pytest.mark.parametrize(
    ("module", "function", "precision", "change"),
    [
        (onnx_float, "write_float32", "float32", nudge_a_weight),
        (onnx_float, "write_float32", "float32", scale_input_twice),
        (quantize, "write_int8", "int8", lose_a_range),
    ],
)
def test_corrupted_file_is_refused(
    bundle: Any,
    shipped: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    module: Any,
    function: str,
    precision: str,
    change: Any,
) -> None:
    """Guards the whole point of parity: weights, preprocessing or ranges that went wrong after training."""
    before = contents(shipped)
    after(monkeypatch, module, function, precision, change)
    with pytest.raises(ParityError, match=precision):
        export_run(bundle.runs[task], shipped)
    assert contents(shipped) == before
    assert [path.name for path in shipped.parent.iterdir()] == ["bundle"]


def test_command_fails_with_the_table(bundle: Any, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards exit status 1, the figures on stderr, and a stdout without a file that was not written."""
    before = contents(shipped)
    after(monkeypatch, onnx_float, "write_float32", "float32", nudge_a_weight)
    result = CliRunner().invoke(export_command, [str(bundle.runs["emotion"]), "--out", str(shipped)])
    assert result.exit_code == 1
    assert "FAILED" in result.stderr
    assert "largest difference" in result.stderr
    assert result.stderr.rstrip().splitlines()[-1].startswith("Error: ")
    assert result.stdout == ""
    assert contents(shipped) == before


def test_command_prints_the_files(bundle: Any, tmp_path: Path) -> None:
    """Guards the command's success: file names on stdout, the figures on stderr."""
    out = tmp_path / "new" / "bundle"
    result = CliRunner().invoke(export_command, [str(bundle.runs["emotion"]), "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == [str(out / f"emotion.{precision}.onnx") for precision in ("float32", "int8")]
    assert "label agreement" in result.stderr
    assert (out / "manifest.json").is_file()


def test_failed_first_export_leaves_nothing(bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a half-written new bundle."""
    after(monkeypatch, quantize, "write_int8", "int8", lose_a_range)
    with pytest.raises(ParityError):
        export_run(bundle.runs["emotion"], tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_crash_while_writing_leaves_the_old_bundle(bundle: Any, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the moment after parity passed: a full disk there must not cost the old bundle."""
    before = contents(shipped)

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(bundle_writer.manifest, "write", full)
    with pytest.raises(ExportError, match="no space left"):
        export_run(bundle.runs["emotion"], shipped)
    assert contents(shipped) == before
    assert [path.name for path in shipped.parent.iterdir()] == ["bundle"]


def test_interrupt_between_the_renames_puts_the_old_bundle_back(
    bundle: Any, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards Ctrl-C in the one moment when neither bundle is in its place."""
    before = contents(shipped)
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_run(bundle.runs["emotion"], shipped)
    assert contents(shipped) == before
    assert [path.name for path in shipped.parent.iterdir()] == ["bundle"]


def save_variant(run: Path, target: Path, change: Callable[[Any], Any]) -> Path:
    """A copy of a run with another model."""
    shutil.copytree(run, target)
    change(keras.models.load_model(target / "model.keras", compile=False)).save(target / "model.keras")
    return target


def blind(model: Any) -> Any:
    for layer in model.layers:
        if layer.name in ("fer2013", "ferplus", "heatmaps", "offset"):
            layer.set_weights([np.zeros_like(weights) for weights in layer.get_weights()])
    return model


@pytest.mark.parametrize("task", ["keypoints", "emotion"])
def test_model_that_sees_nothing_proves_nothing(bundle: Any, tmp_path: Path, task: str) -> None:
    """Guards against parity passed by a model that gives every face the same answer."""
    run = save_variant(bundle.runs[task], tmp_path / "run", blind)
    with pytest.raises(ParityError, match="prove nothing"):
        export_run(run, tmp_path / "out")


def half_precision(model: Any) -> Any:
    layer = model.get_layer("stage1_block1_a_conv")
    config = model.get_config()
    for item in config["layers"]:
        if item["config"]["name"] == layer.name:
            item["config"]["dtype"] = "mixed_bfloat16"
    return type(model).from_config(config)


def another_output(model: Any) -> Any:
    return keras.Model(model.inputs, {"mood": model.output["fer2013"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [(half_precision, "stage1_block1_a_conv.*float32"), (another_output, "output.*not of emotion")],
)
def test_unfit_model_is_named(bundle: Any, tmp_path: Path, change: Any, message: str) -> None:
    """Guards clear words for a mixed-precision model and for one of another task."""
    run = save_variant(bundle.runs["emotion"], tmp_path / "run", change)
    with pytest.raises(ExportError, match=message):
        export_run(run, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("preprocessing.json", {"template": [[1, 2]] * 15, "heads": ["fer2013"]}, "template must be 15 points"),
        ("preprocessing.json", {"template": None, "heads": ["fer2013"]}, "template must be 15 points"),
        ("preprocessing.json", {"heads": ["other"]}, "heads is|template must"),
        ("config.json", {"task": "age"}, "task is 'age', expected one of keypoints, emotion"),
        ("config.json", {"task": "emotion", "data": "nowhere"}, "nowhere: no such data; .*--data"),
        ("config.json", {"task": "emotion"}, "config.json names no data; .*--data"),
        ("evaluation.json", {"figures": {"a": 1}}, "figures must be a list"),
        ("model.keras", None, "model.keras: no such file; the run has not finished"),
    ],
)
def test_unfit_run_is_named(emotion_run: Path, tmp_path: Path, name: str, content: Any, message: str) -> None:
    """Guards one clear line for a run directory that cannot be exported."""
    run = tmp_path / "run"
    shutil.copytree(emotion_run, run)
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(json.dumps(content))
    with pytest.raises(ExportError, match=message):
        export_run(run, tmp_path / "out")


def test_directory_with_other_things_is_refused(emotion_run: Path, tmp_path: Path) -> None:
    """Guards a directory given by mistake: exporting replaces it as a whole."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match=r"thesis.txt but no manifest.json"):
        export_run(emotion_run, tmp_path)


def test_foreign_manifest_is_refused(emotion_run: Path, tmp_path: Path) -> None:
    """Guards a bundle of a later schema against being rewritten as this one."""
    (tmp_path / "manifest.json").write_text('{"schema": 2, "models": {}}')
    with pytest.raises(ExportError, match="schema is 2, expected 1"):
        export_run(emotion_run, tmp_path)
