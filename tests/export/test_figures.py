"""Figures of a file go into its manifest and replace older ones, if it is the file that the manifest describes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import drawn
from facexp.bundle import Bundle
from facexp.errors import BundleError
from facexp_cli.main import cli
from facexp_export.errors import ExportError
from facexp_export.figures import BundleModel
from facexp_train.evaluation.evaluate import Evaluation
from facexp_train.evaluation.metrics import Figure


def evaluation(split: str, value: float) -> Evaluation:
    return Evaluation(split, (Figure(split, "accuracy", value, value - 0.1, value + 0.1, 30),))


def test_task_and_precision_follow_from_the_file(own_bundle: Path) -> None:
    model = BundleModel.open(own_bundle / "emotion.int8.onnx")
    assert (model.task, model.key) == ("emotion", "int8.onnx")
    outputs = model.predict(np.zeros((3, 48, 48, 1), np.uint8))
    assert {name: values.shape for name, values in outputs.items()} == {"fer2013": (3, 7), "ferplus": (3, 7)}


def test_new_figures_replace_old_ones(own_bundle: Path) -> None:
    int8, float32 = (BundleModel.open(own_bundle / f"emotion.{p}.onnx") for p in ("int8", "float32"))
    int8.record(evaluation("val", 0.5))
    float32.record(evaluation("val", 0.6))
    int8.record(evaluation("test", 0.7))
    int8.record(evaluation("val", 0.8))
    figures = Bundle.load(own_bundle).emotion.figures
    found = {(f["model"], f["split"]): f["value"] for f in figures}
    assert found == {("float32.onnx", "val"): 0.6, ("int8.onnx", "test"): 0.7, ("int8.onnx", "val"): 0.8}
    assert len(figures) == 3
    assert figures[-1]["command"] == "facexp evaluate emotion.int8.onnx DATA --split val"
    assert not list(own_bundle.glob("*.part"))


def test_figures_are_recorded_only_on_request(own_bundle: Path, tmp_path: Path) -> None:
    """Guards the shipped manifest against figures of a user's own data."""
    drawn.write_fer2013(tmp_path / "fer2013.csv", 60, 20)
    words = ["evaluate", str(own_bundle / "emotion.int8.onnx"), str(tmp_path / "fer2013.csv"), "-q"]
    before = (own_bundle / "manifest.json").read_bytes()
    done = CliRunner().invoke(cli, words)
    assert (done.exit_code, "fer2013" in done.stdout) == (0, True), done.stderr
    assert (own_bundle / "manifest.json").read_bytes() == before
    assert CliRunner().invoke(cli, [*words, "--record"]).exit_code == 0
    figures = Bundle.load(own_bundle).emotion.figures
    found = {(f["model"], f["split"], f["metric"]) for f in figures}
    assert {("int8.onnx", split, "fer2013/accuracy") for split in ("val", "val/aligned")} <= found


def test_the_share_of_the_faces_that_is_scored_is_said(own_bundle: Path, tmp_path: Path) -> None:
    """Guards a folder without splits, of which a tenth is scored, and the way to score all of it."""
    rng = np.random.default_rng(0)
    for label in ("angry", "happy"):
        for place in (tmp_path / "faces" / label, tmp_path / "whole" / "test" / label):
            place.mkdir(parents=True)
            for number in range(10):
                cv2.imwrite(str(place / f"{number}.png"), rng.integers(0, 256, (48, 48), np.uint8))
    words = ["evaluate", str(own_bundle / "emotion.int8.onnx"), "-q"]
    done = CliRunner().invoke(cli, [*words, str(tmp_path / "faces")])
    assert (done.exit_code, "split: val, 2 of 20 faces" in done.stderr) == (0, True), done.stderr
    done = CliRunner().invoke(cli, [*words, str(tmp_path / "whole"), "--split", "test"])
    assert (done.exit_code, "split: test, 20 of 20 faces" in done.stderr) == (0, True), done.stderr


def test_each_framing_keeps_its_own_figures(own_bundle: Path) -> None:
    model = BundleModel.open(own_bundle / "keypoints.int8.onnx")
    model.record(evaluation("val", 0.5))
    model.record(evaluation("val", 0.6), framing="detector")
    model.record(evaluation("val", 0.7), framing="detector")
    figures = Bundle.load(own_bundle).keypoints.figures
    assert [(f["command"].split("DATA ")[1], f["value"]) for f in figures] == [
        ("--split val", 0.5),
        ("--split val --framing detector", 0.7),
    ]


def test_the_face_that_contains_the_point_is_located(own_bundle: Path, astronaut: np.ndarray) -> None:
    canvas = np.zeros((512, 800), np.uint8)
    canvas[:256, :256] = astronaut[::2, ::2, 1]
    canvas[:, 288:] = astronaut[:, :, 1]
    locate = BundleModel.open(own_bundle / "keypoints.float32.onnx").locate()
    small, large = locate(canvas, (110, 60)), locate(canvas, (508, 120))
    assert small is not None
    assert large is not None
    assert small[:, 0].max() < 256 < 288 < large[:, 0].min()
    assert locate(canvas, (60, 400)) is None


def test_points_are_located_if_the_other_network_lacks_the_precision(own_bundle: Path, astronaut: np.ndarray) -> None:
    path = own_bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["models"]["emotion"]["files"]["float32.onnx"]
    path.write_text(json.dumps(manifest))
    gray = astronaut[:, :, 1].copy()
    exact, small = (BundleModel.open(own_bundle / f"keypoints.{key}.onnx").locate() for key in ("float32", "int8"))
    points, moved = exact(gray, (220, 120)), small(gray, (220, 120))
    assert points is not None
    assert moved is not None
    assert np.abs(points - moved).max() > 0.1


def test_a_file_that_the_manifest_does_not_describe_is_refused(own_bundle: Path) -> None:
    path = own_bundle / "emotion.int8.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ExportError, match=r"is not the file that .*manifest.json describes"):
        BundleModel.open(path)
    stray = own_bundle / "other.onnx"
    stray.write_bytes(b"")
    with pytest.raises(ExportError, match=r"names no file other\.onnx"):
        BundleModel.open(stray)
    manifest = json.loads((own_bundle / "manifest.json").read_text())
    assert manifest["models"]["emotion"]["figures"] == []


def test_a_manifest_that_lacks_a_key_is_a_one_line_error(own_bundle: Path) -> None:
    """Guards manifests made by others: figures may be missing, keys that are used by name may not."""
    path, file = own_bundle / "manifest.json", own_bundle / "emotion.int8.onnx"
    whole = json.loads(path.read_text())
    for key in ("files", "labels"):
        manifest = copy.deepcopy(whole)
        del manifest["models"]["keypoints"][key]
        path.write_text(json.dumps(manifest))
        with pytest.raises(BundleError, match=rf"models\.keypoints\.{key} is missing"):
            BundleModel.open(file)
    for entry in whole["models"].values():
        del entry["figures"]
    path.write_text(json.dumps(whole))
    BundleModel.open(file).record(evaluation("val", 0.5))
    assert [figure["value"] for figure in Bundle.load(own_bundle).emotion.figures] == [0.5]
    whole["models"]["emotion"]["training"] = {"config": ["seed"]}
    path.write_text(json.dumps(whole))
    with pytest.raises(ExportError, match=r"manifest\.json: the training's config must have a whole number"):
        BundleModel.open(file)
