"""A bundle is read as its manifest describes it, and every fault in one is reported with file and key."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import facexp
import tiny_bundle as tiny
from facexp.bundle import Bundle
from facexp.geometry import Framing

Manifest = dict[str, Any]


def test_a_bundle_has_the_content_of_its_manifest(tiny_bundle: Path) -> None:
    # guards: every field of the manifest ends up where the runtime reads it
    bundle = Bundle.load(tiny_bundle)
    assert (bundle.name, bundle.version, bundle.created, bundle.terms) == ("tiny", "0.0.1", "2026-11-20", "for tests")
    assert bundle.keypoints.labels == facexp.KEYPOINTS
    assert bundle.keypoints.size == 96
    assert bundle.keypoints.framing == Framing(1.0, 0.0, 0.0)
    assert np.array_equal(bundle.keypoints.mean_shape, tiny.MEAN_SHAPE)
    assert bundle.emotion.labels == facexp.SEVEN
    assert bundle.emotion.size == 48
    assert bundle.emotion.heads == ("ferplus", "fer2013")
    assert np.allclose(bundle.emotion.template, tiny.TEMPLATE)
    assert [output.name for output in bundle.emotion.outputs] == ["fer2013", "ferplus"]
    assert bundle.emotion.input.row == (48, 48, 1)
    assert bundle.emotion.training == {"data": "none"}
    for model in (bundle.keypoints, bundle.emotion):
        for key, file in model.files.items():
            assert (file.key, file.file) == (key, f"{model.name}.{key}")
            assert f"{file.precision}.{file.format}" == key
            assert len(bundle.read(model, key)) == file.bytes
            assert bundle.check(model, key) == tiny_bundle / file.file
    with pytest.raises(ValueError, match="read-only"):
        bundle.emotion.template[0] = 0


def test_a_damaged_file_is_found_by_its_hash(own_bundle: Path) -> None:
    # guards: weights that were truncated or replaced never run
    file = own_bundle / "emotion.int8.onnx"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(facexp.BundleError, match=r"emotion\.int8\.onnx: sha256 is .* the manifest says"):
        facexp.Analyzer(bundle=own_bundle)
    # only the files in use are read
    assert facexp.Analyzer(precision="float32", bundle=own_bundle).device in ("cpu", "cuda")
    file.unlink()
    with pytest.raises(facexp.BundleError, match=r"emotion\.int8\.onnx: cannot be read \(No such file"):
        facexp.Analyzer("cpu", bundle=own_bundle)


def test_a_missing_precision_is_named(tiny_bundle: Path) -> None:
    # guards: a mistyped precision lists what exists
    with pytest.raises(
        facexp.BundleError, match=r"model keypoints has no float16\.onnx file, it has float32\.onnx, int8\.onnx"
    ):
        facexp.Analyzer(precision="float16", bundle=tiny_bundle)


def test_exact_uses_the_most_exact_file_of_each_network(own_bundle: Path) -> None:
    # guards: a bundle whose networks come in different precisions
    path = own_bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    # reverse the files of both, so that their order in the manifest is not that of their precision
    for model in manifest["models"].values():
        model["files"] = dict(reversed(model["files"].items()))
    del manifest["models"]["emotion"]["files"]["float32.onnx"]
    path.write_text(json.dumps(manifest))
    bundle = Bundle.load(own_bundle)
    assert (bundle.keypoints.most_exact_key(), bundle.emotion.most_exact_key()) == ("float32.onnx", "int8.onnx")
    assert bundle.keypoints.most_exact_key("tflite") is None
    image = np.full((96, 96), 90, np.uint8)
    (face,), (exact,) = (
        facexp.Analyzer("cpu", precision=precision, bundle=own_bundle).analyze_crops([image])
        for precision in ("int8", "exact")
    )
    assert exact.emotion == face.emotion
    assert np.abs(exact.keypoints - face.keypoints).max() > 0.1
    with pytest.raises(facexp.BundleError, match=r"model emotion has no float32\.onnx file, it has int8\.onnx"):
        facexp.Analyzer(precision="float32", bundle=own_bundle)


def test_a_missing_or_broken_manifest_is_named(tmp_path: Path) -> None:
    # guards: the first thing that goes wrong with --bundle
    with pytest.raises(facexp.BundleError, match=r"manifest\.json: cannot be read \(No such file or directory\)"):
        Bundle.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 1,')
    with pytest.raises(facexp.BundleError, match=r"manifest\.json: not valid JSON"):
        Bundle.load(tmp_path)
    (tmp_path / "manifest.json").write_text("[1]")
    with pytest.raises(facexp.BundleError, match=r"the file must be an object, got \[1\]"):
        Bundle.load(tmp_path)
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(facexp.BundleError, match=r"manifest\.json: not valid JSON"):
        Bundle.load(tmp_path)


def drop(*keys: str) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        *path, last = keys
        for key in path:
            manifest = manifest[key]
        del manifest[last]

    return change


def put(value: object, *keys: str | int) -> Callable[[Manifest], None]:
    def change(manifest: Any) -> None:
        *path, last = keys
        for key in path:
            manifest = manifest[key]
        manifest[last] = value

    return change


K, E = ("models", "keypoints"), ("models", "emotion")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("schema"), "schema is missing"),
        (put(1, "schema"), "schema is 1, this version of facexp reads 2"),
        (put(3, "schema"), "schema is 3, this version of facexp reads 2"),
        (put("1", "schema"), 'schema must be int, got "1"'),
        (put(True, "schema"), "schema must be int, got true"),
        (put(True, *K, "preprocessing", "framing", "dx"), "framing.dx must be float, got true"),
        (drop("terms"), "terms is missing"),
        (drop(*E), "models.emotion is missing"),
        (put([], *E), r"models.emotion must be dict, got \[\]"),
        (drop(*K, "files", "int8.onnx", "sha256"), "models.keypoints.files.int8.onnx.sha256 is missing"),
        (put("abc", *K, "files", "int8.onnx", "sha256"), "models.keypoints.files.int8.onnx.sha256 must be 64"),
        (put("../x.onnx", *K, "files", "int8.onnx", "file"), "files.int8.onnx.file must be a plain file name"),
        (put("..", *K, "files", "int8.onnx", "file"), "files.int8.onnx.file must be a plain file name"),
        (put("x\0.onnx", *K, "files", "int8.onnx", "file"), "files.int8.onnx.file must be a plain file name"),
        (put("x\ud800.onnx", *K, "files", "int8.onnx", "file"), r"int8.onnx.file must be text, got .x\\ud800.onnx"),
        (put("tiny\udfff", "name"), r"name must be text, got .tiny\\udfff"),
        (put({}, *K, "files", "\ud800"), r"models.keypoints.files.\\ud800 is not one of float32.onnx"),
        (put({}, *K, "files", "int8"), "models.keypoints.files.int8 is not one of float32.onnx"),
        (put({}, *K, "files"), "models.keypoints.files must name at least one"),
        (put(["a"], *K, "labels"), "models.keypoints.labels must be .*left_eye_center"),
        (put(list(reversed(facexp.SEVEN)), *E, "labels"), "models.emotion.labels must be .*angry"),
        (put(["a", "b", "a", "c", "d", "e", "f"], *E, "labels"), "emotion.labels must be two or more different names"),
        (put(["calm"], *E, "labels"), "models.emotion.labels must be two or more"),
        (put(["calm", 1], *E, "labels"), "models.emotion.labels must be two or more"),
        (put(["calm", "tired"], *E, "labels"), "models.emotion.outputs must be float32 .*2"),
        (put("bgr", *E, "preprocessing", "colour"), "models.emotion.preprocessing.colour must be 'gray'"),
        (put(64, *E, "preprocessing", "size"), "models.emotion.input must be uint8 of shape .*64, 64, 1"),
        (put("float32", *E, "input", "dtype"), "models.emotion.input must be uint8"),
        (put([1, 48, 48, 1], *E, "input", "shape"), "models.emotion.input.shape must be the name of the batch"),
        (put(["batch", 8], *E, "outputs", 1, "shape"), "models.emotion.outputs must be float32"),
        (put([], *E, "outputs"), "models.emotion.outputs must be float32 at least one"),
        (put("points", *K, "outputs", 0, "name"), "models.keypoints.outputs must be float32"),
        (put(["happy"], *E, "preprocessing", "heads"), "preprocessing.heads must name one or more"),
        (put([], *E, "preprocessing", "heads"), "preprocessing.heads must name one or more"),
        (put([[1, 2]], *E, "preprocessing", "template"), "preprocessing.template must be 15 different pairs"),
        (put([[1, 2]] * 15, *K, "preprocessing", "mean_shape"), "preprocessing.mean_shape must be 15 different pairs"),
        (put([[1, None]] * 15, *K, "preprocessing", "mean_shape"), "preprocessing.mean_shape must be 15"),
        (drop(*K, "preprocessing", "framing", "dx"), "preprocessing.framing.dx is missing"),
        (put(0, *K, "preprocessing", "framing", "scale"), "preprocessing.framing.scale must be above 0"),
        (put(10**400, *K, "preprocessing", "framing", "dx"), "preprocessing.framing.dx must be a finite number"),
        (put(math.nan, *K, "preprocessing", "framing", "dx"), "framing.dx must be a finite number, got NaN"),
        (put([[10**400, 1]] * 15, *K, "preprocessing", "mean_shape"), "preprocessing.mean_shape must be 15"),
        (put([[1e300, 1]] * 15, *K, "preprocessing", "mean_shape"), "preprocessing.mean_shape must be 15"),
        (put(10**400, *E, "preprocessing", "size"), "preprocessing.size must be from 1 to 4096 pixels, got 1000"),
        (put(["0.7"], *E, "figures"), r"models.emotion.figures\[0\] must be an object"),
        (put(7, *K, "training"), "models.keypoints.training must be dict, got 7"),
    ],
)
def test_an_invalid_manifest_is_named_by_file_and_key(
    own_bundle: Path, change: Callable[[Manifest], None], words: str
) -> None:
    # guards: every rule of the manifest, each with a message that names the key
    file = own_bundle / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(facexp.BundleError, match=words) as caught:
        Bundle.load(own_bundle)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    # a terminal and a report can show the message, whatever was in the file
    str(caught.value).encode()


def test_a_bundle_without_int8_runs_what_it_has(own_bundle: Path, astronaut: Any) -> None:
    # guards: an export of float32 alone, which must run without `precision`
    manifest = json.loads((own_bundle / "manifest.json").read_text())
    for model in manifest["models"].values():
        model["files"] = {"float32.onnx": model["files"]["float32.onnx"]}
    (own_bundle / "manifest.json").write_text(json.dumps(manifest))
    (face,) = facexp.Analyzer("cpu", bundle=own_bundle).analyze(astronaut)
    (same,) = facexp.Analyzer("cpu", bundle=own_bundle, precision="float32").analyze(astronaut)
    assert face == same
