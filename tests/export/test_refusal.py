"""A wrong export is refused, and the existing bundle is unchanged."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from facexp.bundle import KEYS, digest
from facexp_cli.export import export_command
from facexp_export import bundle_writer
from facexp_export.bundle_writer import export_run
from facexp_export.errors import ExportError, ParityError
from facexp_export.keras_model import load_model
from facexp_export.steps import Job
from facexp_export.tasks import TASKS


def contents(directory: Path) -> dict[str, str]:
    return {path.name: digest(path)[0] for path in directory.iterdir()}


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
    """One activation's scale sixteen times too small: larger values are clipped."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    name = [node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"][4]
    weights[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights[name]) / np.float32(16), name))


def after(patch: pytest.MonkeyPatch, step: str, change: Callable[[Any], None]) -> None:
    """Apply a change to the ONNX file that a step has written."""
    run_step = bundle_writer.run_step

    def run_and_change(job: Job) -> Any:
        facts = run_step(job)
        if job.step == step:
            edit(job.out, change)
        return facts

    patch.setattr(bundle_writer, "run_step", run_and_change)


@pytest.fixture
def shipped(bundle: Any, tmp_path: Path) -> Path:
    """A copy of the good bundle, alone in its directory."""
    directory = tmp_path / "place" / "bundle"
    shutil.copytree(bundle.directory, directory)
    return directory


@pytest.mark.parametrize("task", ["keypoints", "emotion"])
@pytest.mark.parametrize(
    ("step", "change"),
    [
        ("float32.onnx", nudge_a_weight),
        ("float32.onnx", scale_input_twice),
        ("float16.onnx", scale_input_twice),
        ("int8.onnx", lose_a_range),
    ],
)
@pytest.mark.usefixtures("replayed")
def test_corrupted_file_is_refused(
    bundle: Any, shipped: Path, monkeypatch: pytest.MonkeyPatch, task: str, step: str, change: Any
) -> None:
    """Guards the purpose of the gate: weights, preprocessing or ranges that went wrong after training."""
    before = contents(shipped)
    after(monkeypatch, step, change)
    with pytest.raises(ParityError, match=step):
        export_run(bundle.runs[task], shipped, recipe=bundle.recipe, overwrite=True)
    assert contents(shipped) == before
    assert [path.name for path in shipped.parent.iterdir()] == ["bundle"]


@pytest.mark.usefixtures("replayed")
def test_command_fails_with_the_table(bundle: Any, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards exit status 1, the figures on stderr, and a stdout that names no file, as none was written."""
    before = contents(shipped)
    after(monkeypatch, "float32.onnx", nudge_a_weight)
    arguments = [str(bundle.runs["emotion"]), "--out", str(shipped), "--recipe", str(bundle.recipe), "--overwrite"]
    result = CliRunner().invoke(export_command, arguments)
    assert result.exit_code == 1
    assert "FAILED" in result.stderr
    assert "largest difference" in result.stderr
    assert result.stderr.rstrip().splitlines()[-1].startswith("Error: ")
    assert result.stdout == ""
    assert contents(shipped) == before


@pytest.mark.usefixtures("replayed")
def test_command_prints_the_files(bundle: Any, tmp_path: Path) -> None:
    """Guards the command's success: file names on stdout, the figures on stderr."""
    out = tmp_path / "new" / "bundle"
    arguments = [str(bundle.runs["emotion"]), "--out", str(out), "--recipe", str(bundle.recipe)]
    result = CliRunner().invoke(export_command, arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == [str(out / TASKS["emotion"].file(key)) for key in KEYS]
    assert "accuracy lost" in result.stderr
    assert (out / "manifest.json").is_file()


@pytest.mark.usefixtures("replayed")
def test_without_float32_the_others_are_compared_with_float16(bundle: Any, tmp_path: Path) -> None:
    """Guards a bundle that is meant to be small: its proof is complete, including the answers to the picture."""
    recipe = tmp_path / "small.toml"
    recipe.write_text(bundle.recipe.read_text() + '[files]\nkeys = ["float16.onnx", "int8.onnx"]\n')
    export_run(bundle.runs["keypoints"], tmp_path / "bundle", recipe=bundle.recipe)
    proof = export_run(bundle.runs["emotion"], tmp_path / "bundle", recipe=recipe).proof
    assert proof.passed
    task = [check for check in proof.steps[2].checks if check.task == "emotion"]
    assert {check.file for check in task if check.what == "accuracy"} == {"float16.onnx"}
    assert {check.file for check in task if check.what == "accuracy lost"} == {"int8.onnx"}
    assert "largest difference of the picture's emotion" in [check.what for check in proof.steps[3].checks]


@pytest.mark.usefixtures("replayed")
def test_failed_first_export_leaves_nothing(bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a half-written new bundle."""
    after(monkeypatch, "int8.onnx", lose_a_range)
    with pytest.raises(ParityError):
        export_run(bundle.runs["emotion"], tmp_path / "bundle", recipe=bundle.recipe)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("replayed")
def test_crash_while_writing_leaves_the_old_bundle(bundle: Any, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the moment after all files are written: a full disk there must not cost the old bundle."""
    before = contents(shipped)

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(bundle_writer.manifest, "write", full)
    with pytest.raises(ExportError, match="no space left"):
        export_run(bundle.runs["emotion"], shipped, recipe=bundle.recipe, overwrite=True)
    assert contents(shipped) == before
    assert [path.name for path in shipped.parent.iterdir()] == ["bundle"]


@pytest.mark.usefixtures("replayed")
def test_the_second_of_two_exports_into_one_directory_is_refused(
    bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the network whose export ends first: the other export began before that and does not contain it."""
    out = tmp_path / "bundle"
    after(monkeypatch, "float32.onnx", lambda _: shutil.copytree(bundle.directory, out))
    with pytest.raises(ExportError, match=f"^{out}: was changed by another export meanwhile; export again$"):
        export_run(bundle.runs["keypoints"], out, recipe=bundle.recipe)
    assert contents(out) == contents(bundle.directory)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_missing_temporary_directory_is_a_one_line_error(
    emotion_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a container with a read-only disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    result = CliRunner().invoke(export_command, [str(emotion_run), "--out", str(tmp_path / "bundle")])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1:] == [
        f"Error: {tmp_path / 'nowhere'}: a temporary file cannot be written (No such file or directory); set "
        "TMPDIR to a directory with free space"
    ]


@pytest.mark.usefixtures("replayed")
def test_a_read_only_run_is_an_error(bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards runs on a share: the first export stores the framing of its faces in the run."""
    run = tmp_path / "run"
    shutil.copytree(bundle.runs["keypoints"], run)
    (run / "preprocessing.json").unlink()
    # blocks the temporary file next to it, even for root
    (run / "preprocessing.json.part").mkdir()
    monkeypatch.setattr(bundle_writer, "measure", lambda *_: {})
    message = r"preprocessing\.json: cannot be written \(Is a directory\); make the run's directory writable, or"
    with pytest.raises(ExportError, match=message):
        export_run(run, tmp_path / "bundle")


@pytest.mark.usefixtures("replayed")
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
        export_run(bundle.runs["emotion"], shipped, recipe=bundle.recipe, overwrite=True)
    assert contents(shipped) == before
    assert [path.name for path in shipped.parent.iterdir()] == ["bundle"]


@pytest.fixture
def harmless_sigterm() -> Iterator[None]:
    """Make SIGTERM harmless to this process, so that a command that does not handle it is distinguished from one that
    does."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("replayed", "harmless_sigterm")
def test_a_terminated_export_leaves_nothing_behind(
    bundle: Any, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a job that CI or a container ends with SIGTERM: neither half a bundle nor temporary files stay."""
    before = contents(shipped)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    written = []

    def terminate(_: Any) -> None:
        written.extend([*scratch.iterdir(), *shipped.parent.glob(".bundle.new-*")])
        signal.raise_signal(signal.SIGTERM)

    after(monkeypatch, "float32.onnx", terminate)
    arguments = [str(bundle.runs["emotion"]), "--out", str(shipped), "--recipe", str(bundle.recipe), "--overwrite"]
    assert CliRunner().invoke(export_command, arguments).exit_code == 143
    assert len(written) == 2
    assert not list(scratch.iterdir())
    assert [path.name for path in shipped.parent.iterdir()] == ["bundle"]
    assert contents(shipped) == before


@pytest.mark.parametrize("task", ["keypoints", "emotion"])
@pytest.mark.usefixtures("replayed")
def test_a_model_with_a_constant_answer_proves_nothing(
    bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """Guards against a proof by a model that gives every face the same answer."""
    run_step = bundle_writer.run_step

    def blind(job: Job) -> Any:
        run_step(job)
        with np.load(job.out, allow_pickle=False) as seen:
            np.savez(job.out, **{name: np.repeat(seen[name][:1], len(seen[name]), axis=0) for name in seen.files})

    monkeypatch.setattr(bundle_writer, "run_step", blind)
    with pytest.raises(ParityError, match="prove nothing"):
        export_run(bundle.runs[task], tmp_path / "out")


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
    [
        (half_precision, "stage1_block1_a_conv.*float32"),
        (another_output, r"output 'mood' .* expected ferplus or fer2013 or own of shape \(None, 7\)"),
    ],
)
def test_an_unsuitable_model_is_named(emotion_run: Path, tmp_path: Path, change: Any, message: str) -> None:
    """Guards clear messages about a mixed-precision model and one of another task."""
    path = tmp_path / "model.keras"
    change(keras.models.load_model(emotion_run / "model.keras", compile=False)).save(path)
    with pytest.raises(ExportError, match=message):
        load_model(path, TASKS["emotion"])


def test_code_inside_a_model_is_refused(tmp_path: Path) -> None:
    """Guards safe_mode: a third-party .keras file must not run code that its author put into it."""
    image = keras.Input((48, 48, 1), dtype="uint8", name="image")
    model = keras.Model(image, keras.layers.Lambda(lambda x: x)(image))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ExportError, match=r"model\.keras: not a Keras model that can be loaded here"):
        load_model(tmp_path / "model.keras", TASKS["emotion"])


def test_existing_files_are_replaced_only_on_request(bundle: Any, shipped: Path, replayed: list[str]) -> None:
    """Guards hours of work if a directory is given twice, and against files that the recipe no longer names."""
    before = contents(shipped)
    with pytest.raises(ExportError, match=r"holds emotion\.float32\.onnx, .* already; replace them with --overwrite"):
        export_run(bundle.runs["emotion"], shipped)
    assert not replayed
    assert contents(shipped) == before
    recipe = shipped.parent.parent / "small.toml"
    recipe.write_text(bundle.recipe.read_text() + '[files]\nkeys = ["float32.onnx", "int8.tflite"]\n')
    exported = export_run(bundle.runs["emotion"], shipped, recipe=recipe, overwrite=True)
    # intermediate files are written, and not kept
    assert replayed == ["reference", "float32.onnx", "float32.tflite", "int8.tflite"]
    assert list(exported.files) == ["float32.onnx", "int8.tflite"]
    assert {path.name for path in shipped.iterdir() if path.name.startswith("emotion")} == {
        "emotion.float32.onnx",
        "emotion.int8.tflite",
        "emotion.recipe.toml",
        "emotion.report.json",
    }
    assert contents(shipped)["keypoints"] == before["keypoints"]


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
def test_an_unsuitable_run_is_named(emotion_run: Path, tmp_path: Path, name: str, content: Any, message: str) -> None:
    """Guards one clear line about a run directory that cannot be exported."""
    run = tmp_path / "run"
    shutil.copytree(emotion_run, run)
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(json.dumps(content))
    with pytest.raises(ExportError, match=message):
        export_run(run, tmp_path / "out")


def test_a_directory_with_other_files_is_refused(emotion_run: Path, tmp_path: Path) -> None:
    """Guards a directory given by mistake: an export replaces all of it."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match=r"thesis.txt but no manifest.json"):
        export_run(emotion_run, tmp_path)


def test_a_manifest_of_a_later_schema_is_refused(emotion_run: Path, tmp_path: Path) -> None:
    """Guards a bundle of a later schema against being rewritten in this one."""
    (tmp_path / "manifest.json").write_text('{"schema": 3, "models": {}}')
    with pytest.raises(ExportError, match="schema is 3, expected 2"):
        export_run(emotion_run, tmp_path)
