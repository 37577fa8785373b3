"""What golden.npz must be before this machine's results are compared with it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from facexp.bundle import load_models, shipped
from facexp.errors import BundleError, DeviceError
from facexp.proof.device import GOLDEN, device, golden_crops, read_golden
from facexp.proof.report import write
from facexp.proof.verdict import Report

Golden = dict[str, NDArray[np.generic]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the shipped golden.npz, to damage."""
    shutil.copy(shipped() / GOLDEN, tmp_path)
    return tmp_path


def spoil_the_stream(content: bytearray) -> None:
    """Set a block type that deflate does not have."""
    name, extra = (int.from_bytes(content[place : place + 2], "little") for place in (26, 28))
    content[30 + name + extra] |= 6


def spoil_the_method(content: bytearray) -> None:
    """Set an unknown compression method."""
    content[content.index(b"PK\x01\x02") + 10] = 99


def spoil_the_sum(content: bytearray) -> None:
    content[content.index(b"PK\x01\x02") + 16] ^= 1


def cut_off(content: bytearray) -> None:
    del content[len(content) // 2 :]


def empty(content: bytearray) -> None:
    content.clear()


@pytest.mark.parametrize("spoil", [spoil_the_stream, spoil_the_method, spoil_the_sum, cut_off, empty])
def test_damaged_bytes_are_a_one_line_error(directory: Path, spoil: Callable[[bytearray], None]) -> None:
    """Guards the single error for all the kinds that numpy, zipfile and zlib raise."""
    file = directory / GOLDEN
    content = bytearray(file.read_bytes())
    spoil(content)
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"golden\.npz: cannot be read \(not an \.npz file, or damaged") as caught:
        read_golden(directory)
    assert "\n" not in str(caught.value)


def test_another_kind_of_file_is_a_one_line_error(directory: Path) -> None:
    """Guards a file of a single array, which numpy reads without complaint, and a missing file."""
    file = directory / GOLDEN
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(BundleError, match=r"golden\.npz: cannot be read \(not an \.npz file"):
        read_golden(directory)
    file.unlink()
    with pytest.raises(BundleError, match=r"golden\.npz: cannot be read \(No such file or directory\)"):
        read_golden(directory)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("picture_box", None, "has no picture_box"),
        ("picture_keypoints", None, "has no picture_keypoints"),
        ("picture_emotion", None, "has no picture_emotion"),
        ("picture", None, "has no picture"),
        ("picture", np.zeros((9, 9), np.uint8), r"picture is uint8 \(9, 9\), expected uint8 \(any, any, 3\)"),
        ("picture", np.zeros((0, 9, 3), np.uint8), r"picture is uint8 \(0, 9, 3\)"),
        ("picture_box", np.ones(3), r"picture_box is float64 \(3,\), expected float64 \(4\)"),
        ("picture_box", np.array(list("abcd")), "picture_box is <U1"),
        ("picture_box", np.full(4, np.nan), "picture_box must be finite numbers"),
        ("picture_box", np.zeros(4), r"picture_box \[0.0, 0.0, 0.0, 0.0\] is not a valid box"),
        ("picture_box", np.array([1e300, 0, 9, 9]), "picture_box .* is not a valid box"),
        ("emotion_input", np.zeros((0, 48, 48, 1), np.uint8), r"emotion_input is uint8 \(0, 48, 48, 1\)"),
        ("emotion_input", np.zeros((4, 48, 48, 1)), "emotion_input is float64"),
        ("emotion/int8.onnx/ferplus", np.array(["happy"] * 4), "emotion/int8.onnx/ferplus is <U5"),
        ("emotion/int8.onnx/ferplus", np.full((4, 7), np.inf, np.float32), "emotion/int8.onnx/ferplus must be finite"),
    ],
)
def test_an_array_of_another_type_or_shape_is_named(
    directory: Path, name: str, value: NDArray[np.generic] | None, words: str
) -> None:
    """Guards every array that is used: present, of its type and shape, and finite."""
    golden = read_golden(directory)
    del golden[name]
    if value is not None:
        golden[name] = value
    np.savez(directory / GOLDEN, **golden)
    with pytest.raises(BundleError, match=rf"golden\.npz: {words}"):
        read_golden(directory)


def test_the_files_of_one_library_are_proved_without_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a device with LiteRT alone, which runs the TFLite files: it got no proof at all."""
    pytest.importorskip("ai_edge_litert", reason="LiteRT comes with the litert extra")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    step = device(shipped())
    assert step.verdict == "passed"
    assert {check.file for check in step.checks if check.passed} == {"int8.tflite"}
    left_out = ("keypoints.float32.onnx", "keypoints.int8.onnx", "emotion.float16.onnx", "emotion.int8.onnx", "picture")
    assert [note.partition(": not compared, onnxruntime cannot be imported")[0] for note in step.notes] == [*left_out]
    # without either there is no proof, rather than one in which nothing failed
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(DeviceError, match="onnxruntime cannot be imported"):
        device(shipped())


def test_crops_of_another_size_are_one_failure(own_shipped: Path) -> None:
    """Guards crops that the network cannot take, for its results and its speed; the other network is compared."""
    golden = read_golden(own_shipped)
    golden["emotion_input"] = np.zeros((4, 96, 96, 1), np.uint8)
    np.savez(own_shipped / GOLDEN, **golden)
    step = device(own_shipped)
    assert [(check.task, check.note) for check in step.failures] == [
        ("emotion", "golden.npz has no crops of 48 px for emotion; export the bundle again")
    ]
    assert {check.task for check in step.checks if check.what == "time for one crop"} == {"keypoints"}
    keypoints = next(model for model in load_models(own_shipped) if model.name == "keypoints")
    assert golden_crops(golden, keypoints).shape == (4, 96, 96, 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"emotion\.recipe\.toml: tolerances\.golden cannot be read \(No such file or directory\)"),
        ("[tolerances]", "tolerances.golden cannot be read .*golden"),
        (f"[tolerances.golden]\nfloat32 = 1{'0' * 400}", "tolerances.golden cannot be read .*too large"),
    ],
)
def test_a_recipe_without_tolerances_is_one_failure(own_shipped: Path, content: str | None, words: str) -> None:
    """Guards the limits for the comparison: a readable message, whatever is wrong with the file."""
    recipe = own_shipped / "emotion.recipe.toml"
    recipe.unlink()
    if content is not None:
        recipe.write_text(content)
    (check,) = device(own_shipped).checks
    assert check.passed is False
    assert re.search(words, check.note)


def test_results_that_are_nearly_equal_prove_nothing(own_shipped: Path) -> None:
    """Guards a golden.npz with the same results for every crop, as a dead network would give."""
    golden = read_golden(own_shipped)
    golden["emotion_input"] = np.repeat(golden["emotion_input"][:1], len(golden["emotion_input"]), axis=0)
    for name in golden:
        if name.startswith("emotion/"):
            golden[name] = np.repeat(golden[name][:1], len(golden[name]), axis=0)
    np.savez(own_shipped / GOLDEN, **golden)
    failures = device(own_shipped).failures
    assert {check.task for check in failures} == {"emotion"}
    assert all(check.note.endswith("are nearly equal for all crops: they prove nothing") for check in failures)


def test_a_failed_proof_of_a_folder_that_is_not_utf8_is_written(tmp_path: Path) -> None:
    """Guards the exit status 3, and a report that names the folder: both were lost in a traceback."""
    place = tmp_path / os.fsdecode(b"caf\xe9")
    failed = Report({"name": place.name, "version": ""}, {}, (device(place),))
    for path in write(failed, tmp_path):
        assert r"caf\udce9" in path.read_text(encoding="utf-8")
