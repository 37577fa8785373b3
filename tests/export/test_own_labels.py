"""A run with its own classes: their names go from config.json into every step, the manifest and the proof."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny_bundle as tiny
from facexp.labels import SEVEN
from facexp_export.errors import ExportError
from facexp_export.figures import BundleModel
from facexp_export.keras_model import load_model
from facexp_export.manifest import interface
from facexp_export.run import read_run
from facexp_export.steps import Job
from facexp_export.tasks import TASKS
from facexp_train.networks.resnet import emotion_network

OWN = ("awake", "drowsy", "yawning")


@pytest.fixture
def own_run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    network = emotion_network(stem=4, stages=(4,), blocks=1, heads=("own",), classes=len(OWN))
    network.save(run / "model.keras")
    (run / "config.json").write_text(json.dumps({"task": "emotion", "data": "faces", "classes": list(OWN)}))
    return run


def test_the_names_reach_the_manifest(own_run: Path) -> None:
    """Guards the labels and the shape that the runtime reads, and the refusal of another network."""
    run = read_run(own_run)
    assert run.task.labels == OWN
    known = interface(run, ["own"])
    assert known["labels"] == list(OWN)
    assert known["outputs"] == [{"name": "own", "dtype": "float32", "shape": ["batch", 3]}]
    assert list(load_model(run.model, run.task).output) == ["own"]
    with pytest.raises(ExportError, match=r"output 'own' of shape \(None, 3\) .* expected .* of shape \(None, 7\)"):
        load_model(run.model, TASKS["emotion"])


def test_a_run_that_names_no_classes_has_the_seven(own_run: Path) -> None:
    """Guards runs of versions that did not record their classes."""
    (own_run / "config.json").write_text(json.dumps({"task": "emotion", "data": "faces"}))
    assert read_run(own_run).task.labels == SEVEN


def test_the_names_reach_the_steps(tmp_path: Path) -> None:
    """Guards the job file that a step's process reads."""
    place = Path("x")
    job = Job("reference", "emotion", place, place, place, place, labels=OWN)
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job


def test_a_bundle_is_scored_on_its_own_classes(tmp_path: Path) -> None:
    """Guards `facexp evaluate FILE DATA`, which must read the data's faces with these classes, in this order."""
    bundle = tiny.build(tmp_path / "own", labels=OWN)
    assert BundleModel.open(bundle / "emotion.float32.onnx").classes == list(OWN)
    assert BundleModel.open(bundle / "keypoints.float32.onnx").classes == []
