"""The LiteRT backend: the same results through the same `Analyzer`, and a one-line error where it cannot run."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import facexp
from facexp.bundle import Bundle
from facexp.session import Session

pytest.importorskip("ai_edge_litert", reason="LiteRT comes with the litert extra")

KEY = "int8.tflite"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The bundle that ships: a TFLite file cannot be written by hand."""
    return Bundle.load()


@pytest.fixture(scope="module")
def crops(bundle: Bundle) -> np.ndarray:
    with np.load(bundle.path / "golden.npz", allow_pickle=False) as golden:
        return golden["emotion_input"]


def test_a_session_takes_any_number_of_rows(bundle: Bundle, crops: np.ndarray) -> None:
    # guards: the file takes one crop, the session any number, and each row has its own result
    session = Session(bundle.read(bundle.emotion, KEY), bundle.emotion, KEY, threads=1)
    many = np.concatenate([crops] * 17)
    outputs = session.run(many)
    assert set(outputs) == {"fer2013", "ferplus"}
    for name, rows in outputs.items():
        assert rows.shape == (len(many), 7)
        assert rows.dtype == np.float32
        assert np.array_equal(rows[:4], rows[-4:])
        assert len(np.unique(rows[:4], axis=0)) == 4
        assert np.array_equal(session.run(many[2:3])[name][0], rows[2])
        assert session.run(many[:0])[name].shape == (0, 7)


def test_the_same_faces_and_points_as_onnxruntime(astronaut: np.ndarray) -> None:
    # guards: a different layout, scaling or order of outputs in one of the two files
    (ours,), (theirs,) = (
        facexp.Analyzer("cpu", 1, backend=backend).analyze(astronaut) for backend in ("litert", "onnxruntime")
    )
    assert ours.box == theirs.box
    eyes = np.linalg.norm(theirs.keypoints[0] - theirs.keypoints[1])
    # int8 moves points by about 0.1 px of a crop in which the eyes are 37 px apart
    assert np.linalg.norm(ours.keypoints - theirs.keypoints, axis=1).max() < 0.02 * eyes
    assert ours.emotion.label == theirs.emotion.label
    for label, share in theirs.emotion.probabilities.items():
        assert ours.emotion.probabilities[label] == pytest.approx(share, abs=0.05)


def test_auto_is_the_cpu_and_cuda_is_refused() -> None:
    # guards: a device that LiteRT does not use
    assert facexp.Analyzer("auto", backend="litert").device == "cpu"
    with pytest.raises(facexp.DeviceError, match="device 'cuda': facexp runs LiteRT only on the CPU"):
        facexp.Analyzer("cuda", backend="litert")


def test_a_missing_package_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # guards: the install command instead of a traceback of imports
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(facexp.DeviceError, match=r'ai-edge-litert .*; run: pip install "facexp\[litert\]"') as caught:
        facexp.Analyzer(backend="litert")
    assert "\n" not in str(caught.value)


def test_too_little_memory_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    # guards: the message of a small machine, which ended at the colon, because a MemoryError has no text of its own
    def fail(**_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("ai_edge_litert.interpreter.Interpreter", fail)
    with pytest.raises(facexp.BundleError, match=r"cannot be loaded by LiteRT: MemoryError$"):
        Session(bundle.read(bundle.emotion, KEY), bundle.emotion, KEY)


def test_a_wrong_backend_or_file_is_named(bundle: Bundle) -> None:
    # guards: clear messages for what cannot work
    with pytest.raises(ValueError, match="backend must be one of onnxruntime, litert, got 'tensorrt'"):
        facexp.Analyzer(backend="tensorrt")
    with pytest.raises(ValueError, match="a session runs files of the formats onnx, tflite, got 'savedmodel'"):
        Session(b"", bundle.emotion, "savedmodel")
    with pytest.raises(facexp.BundleError, match="model emotion cannot be loaded by LiteRT"):
        Session(b"no model at all, but long enough to look at", bundle.emotion, KEY)
    with pytest.raises(facexp.BundleError, match="model emotion: the file's input is"):
        Session(bundle.read(bundle.keypoints, KEY), bundle.emotion, KEY)


def test_the_metadata_describe_the_file(bundle: Bundle) -> None:
    # guards: readers of the metadata that have neither TensorFlow nor the manifest
    metadata = json.loads(Session(bundle.read(bundle.emotion, KEY), bundle.emotion, KEY).metadata or "")
    assert metadata["task"] == "emotion"
    assert metadata["labels"] == list(facexp.SEVEN)
