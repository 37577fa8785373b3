"""One network on one device: what runs is what was requested."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import facexp
from facexp.bundle import Bundle, TensorSpec
from facexp.session import Session, devices_to_try

CUDA = "CUDAExecutionProvider"


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


@pytest.fixture
def emotion(bundle: Bundle) -> Session:
    return Session(bundle.read(bundle.emotion, "float32.onnx"), bundle.emotion, "float32.onnx", device="cpu", threads=1)


class FakeRuntime:
    """An onnxruntime that lists CUDA, and whose CUDA sessions run on the providers in `live`."""

    __version__ = "9.9"
    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, live: list[str], fails: str = "") -> None:
        self.live, self.fails = live, fails
        self.sessions: list[tuple[list[str], dict[str, Any]]] = []
        self.levels: list[int] = []

    def get_available_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"]

    def set_default_logger_severity(self, level: int) -> None:
        self.levels.append(level)

    def InferenceSession(self, model: bytes, options: object, providers: list[str], **more: Any) -> object:  # noqa: N802
        self.sessions.append((providers, more))
        if providers[0] == CUDA and self.fails == "load":
            raise RuntimeError("libcudnn.so.9:\n cannot open shared object file")
        real = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        def run(*inputs: object) -> object:
            if providers[0] == CUDA and self.fails == "run":
                raise RuntimeError("no kernel image is available")
            return real.run(*inputs)

        live = self.live if providers[0] == CUDA else providers
        return SimpleNamespace(
            get_providers=lambda: live,
            get_inputs=real.get_inputs,
            get_outputs=real.get_outputs,
            get_modelmeta=real.get_modelmeta,
            run=run,
        )


def use_fake_runtime(monkeypatch: pytest.MonkeyPatch, live: list[str], fails: str = "") -> FakeRuntime:
    runtime = FakeRuntime(live, fails)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)  # type: ignore[arg-type]
    return runtime


def test_outputs_come_by_name(emotion: Session) -> None:
    # guards: names, not positions; every row has its own result
    batch = np.zeros((2, 48, 48, 1), np.uint8)
    batch[1] = 255
    outputs = emotion.run(batch)
    assert set(outputs) == {"fer2013", "ferplus"}
    for rows in outputs.values():
        assert rows.dtype == np.float32
        assert rows.shape == (2, 7)
        assert rows.argmax(axis=1).tolist() == [0, 6]
    assert np.allclose(outputs["ferplus"], 2 * outputs["fer2013"])


def test_a_large_batch_is_split_and_joined_again(emotion: Session) -> None:
    # guards: no row is lost, doubled or moved where two parts meet
    gray = np.arange(150, dtype=np.uint8)
    batch = np.broadcast_to(gray[:, None, None, None], (150, 48, 48, 1)).copy()
    seen: list[int] = []
    run = emotion._engine.run
    emotion._engine = SimpleNamespace(run=lambda name, part: seen.append(len(part)) or run(name, part))
    together = emotion.run(batch)["fer2013"]
    assert seen == [64, 64, 22]
    alone = np.concatenate([emotion.run(row[None])["fer2013"] for row in batch])
    assert np.allclose(together, alone, atol=1e-5)
    assert emotion.run(batch[:0])["fer2013"].shape == (0, 7)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (np.zeros((1, 48, 48, 1), np.float32), "uint8 array, got float32"),
        (np.zeros((1, 96, 96, 1), np.uint8), r"shape \(N, 48, 48, 1\), got \(1, 96, 96, 1\)"),
        (np.zeros((48, 48, 1), np.uint8), r"shape \(N, 48, 48, 1\), got \(48, 48, 1\)"),
        ([[1, 2]], "uint8 array, got list"),
    ],
)
def test_a_wrong_batch_is_named(emotion: Session, batch: Any, words: str) -> None:
    # guards: a float image in [0, 1] would otherwise be taken for a black one
    with pytest.raises(ValueError, match=words):
        emotion.run(batch)


def test_threads_reach_onnxruntime(bundle: Bundle) -> None:
    # guards: --threads would otherwise be a flag that does nothing
    session = Session(
        bundle.read(bundle.emotion, "float32.onnx"), bundle.emotion, "float32.onnx", device="cpu", threads=2
    )
    options = session._engine.session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Session(b"", bundle.emotion, "float32.onnx", device="cpu", threads=0)


def test_a_file_that_contradicts_the_manifest_is_refused(bundle: Bundle) -> None:
    # guards: two models swapped on disk, or the manifest of another export
    with pytest.raises(facexp.BundleError, match="model emotion: the file's input is"):
        Session(bundle.read(bundle.keypoints, "float32.onnx"), bundle.emotion, "float32.onnx", device="cpu")
    other = replace(bundle.emotion, outputs=(TensorSpec("fer2013", "float32", (7,)),))
    with pytest.raises(facexp.BundleError, match=r"the file's output is .*ferplus"):
        Session(bundle.read(bundle.emotion, "float32.onnx"), other, "float32.onnx", device="cpu")
    with pytest.raises(facexp.BundleError, match="model emotion cannot be loaded on cpu"):
        Session(b"no model", bundle.emotion, "float32.onnx", device="cpu")


@pytest.mark.parametrize(
    ("kind", "constant", "words"),
    [
        ("Reshape", [1, 7], "does not run on cpu with two crops at once"),
        ("Gather", [0], "ferplus has 1 rows for 2 crops"),
    ],
)
def test_a_file_made_for_one_crop_is_refused(bundle: Bundle, kind: str, constant: list[int], words: str) -> None:
    # guards: a traceback at the first picture of two faces, after a good start
    model = onnx.load_from_string(bundle.read(bundle.emotion, "float32.onnx"))
    (last,) = (node for node in model.graph.node if "ferplus" in node.output)
    last.output[:] = ["before"]
    model.graph.initializer.append(numpy_helper.from_array(np.array(constant, np.int64), "constant"))
    model.graph.node.append(helper.make_node(kind, ["before", "constant"], ["ferplus"]))
    with pytest.raises(facexp.BundleError, match=words):
        Session(model.SerializeToString(), bundle.emotion, "float32.onnx")


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA")
def test_cuda_is_refused_where_onnxruntime_has_none(tiny_bundle: Path) -> None:
    # guards: the installed onnxruntime, not a fake one; the message says what to install
    with pytest.raises(facexp.DeviceError, match=r'does not support CUDA; .*pip install "facexp\[gpu\]"'):
        facexp.Analyzer("cuda", bundle=tiny_bundle)
    assert facexp.Analyzer("auto", bundle=tiny_bundle).device == "cpu"


@pytest.mark.parametrize(
    ("live", "fails", "words"),
    [
        (["CPUExecutionProvider"], "", "the session runs on CPUExecutionProvider"),
        ([CUDA, "CPUExecutionProvider"], "load", "libcudnn.so.9: cannot open shared object file"),
        ([CUDA, "CPUExecutionProvider"], "run", "does not run on cuda: no kernel image"),
    ],
)
def test_cuda_that_does_not_really_run_raises_and_auto_uses_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, live: list[str], fails: str, words: str
) -> None:
    # guards: onnxruntime lists CUDA, then silently runs on the CPU
    runtime = use_fake_runtime(monkeypatch, live, fails)
    with pytest.raises(facexp.DeviceError, match=words):
        facexp.Analyzer("cuda", bundle=tiny_bundle)
    assert facexp.Analyzer("auto", bundle=tiny_bundle).device == "cpu"
    assert runtime.sessions[-1][0] == ["CPUExecutionProvider"]
    # messages are off only during the attempt, and onnxruntime's own fallback, which prints to stdout, is off
    assert runtime.levels[-1] == 2
    assert all(more == {"enable_fallback": 0} for _, more in runtime.sessions)


def test_cuda_libraries_of_nvidias_wheels_are_loaded_first(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    # guards: `pip install "onnxruntime-gpu[cuda,cudnn]"` would have no effect; stdout is for data, not for warnings
    runtime = use_fake_runtime(monkeypatch, [CUDA, "CPUExecutionProvider"])
    sessions_before: list[int] = []

    def preload() -> None:
        sessions_before.append(len(runtime.sessions))
        print("Failed to load libcublas.so.13")

    monkeypatch.setattr(runtime, "preload_dlls", preload, raising=False)
    for device in ("cpu", "cuda"):
        Session(bundle.read(bundle.emotion, "int8.onnx"), bundle.emotion, "int8.onnx", device=device)
    # once, after the CPU's session and before CUDA's
    assert sessions_before == [1]
    assert capsys.readouterr().out == ""


def test_auto_uses_cuda_where_it_runs(monkeypatch: pytest.MonkeyPatch, bundle: Bundle, tiny_bundle: Path) -> None:
    # guards: the best device that really runs, with the precision that suits it
    use_fake_runtime(monkeypatch, [CUDA, "CPUExecutionProvider"])
    read: list[str] = []
    original = Bundle.read
    monkeypatch.setattr(Bundle, "read", lambda self, model, key: read.append(key) or original(self, model, key))
    assert facexp.Analyzer("auto", bundle=tiny_bundle).device == "cuda"
    assert read == ["float32.onnx"] * 2
    assert facexp.Analyzer("cpu", bundle=tiny_bundle).device == "cpu"
    assert read[2:] == ["int8.onnx"] * 2
    assert devices_to_try("auto") == ("cuda", "cpu")
    with pytest.raises(ValueError, match="device must be one of auto, cpu, cuda, got 'gpu'"):
        devices_to_try("gpu")


def test_a_missing_onnxruntime_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    # guards: the install command instead of a traceback of imports
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(facexp.DeviceError, match=r'onnxruntime .*; run: pip install "facexp\[cpu\]"') as caught:
        facexp.Analyzer(bundle=tiny_bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["facexp.session", "facexp_export.quantize"])
def test_onnxruntime_prepares_no_telemetry(module: str, tmp_path: Path) -> None:
    """Guards the word "offline": onnxruntime stores an id in the user's cache before it sends telemetry."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    script = f"import {module}, onnxruntime"
    if "export" in module:
        pytest.importorskip("onnx", reason='EXPORT NOT TESTED: pip install "facexp[export]"')
    for name in ("HOME", "XDG_CACHE_HOME"):
        environment[name] = str(tmp_path)
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)
    assert not list(tmp_path.rglob("*onnxruntime*"))
