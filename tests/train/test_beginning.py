"""What is refused before training starts, and what a run records of how it was started."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import drawn
from facexp.geometry import KEYPOINTS
from facexp_train import augmented_data, run
from facexp_train.augmentation import alignment
from facexp_train.command import repeating
from facexp_train.emotion import EmotionJob
from facexp_train.errors import DataError, TrainingError
from facexp_train.evaluation import metrics
from facexp_train.exploration import explore
from facexp_train.fitting.run_directory import expect_faces, held_run_directory


def keypoints_csv(path: Path, count: int = 30) -> Path:
    """Write a file in Kaggle's format, with a face of independent noise in each row."""
    rng = np.random.default_rng(0)
    columns = [f"{name}_{axis}" for name in KEYPOINTS for axis in "xy"]
    images = [" ".join(map(str, rng.integers(0, 256, 96 * 96))) for _ in range(count)]
    pd.DataFrame(rng.uniform(20, 76, (count, 30)), columns=columns).round(2).assign(
        group=range(count), Image=images
    ).to_csv(path, index=False)
    return path


def test_a_run_is_not_resumed_with_other_faces(tmp_path: Path) -> None:
    """Guards the stored predictions, the teachers' and the run's own, which are matched to faces by row number."""
    config = run.configure("keypoints", str(keypoints_csv(tmp_path / "training.csv")))
    faces = run.read_faces(config, quiet=True)
    expect_faces(faces, config, tmp_path)
    expect_faces(faces, config, tmp_path)
    table = pd.read_csv(config.data).iloc[2:]
    table.to_csv(config.data, index=False)
    with pytest.raises(DataError, match=r"training\.csv: has changed since the run was started: 30 faces then and 28"):
        expect_faces(run.read_faces(config, quiet=True), config, tmp_path)


def test_a_run_is_not_resumed_with_other_unlabelled_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the teachers' stored predictions for them, which follow those for the labelled faces, by row number."""
    monkeypatch.setattr(alignment, "alignments", lambda images, *_: np.tile(np.eye(2, 3), (len(images), 1, 1)))
    monkeypatch.setattr(run, "EmotionJob", Untrained)
    monkeypatch.setattr(run, "load_predict", lambda out: None)
    for module, name in ((run, "draw_samples"), (run, "draw_predictions"), (run, "write_page"), (run.fit, "train")):
        monkeypatch.setattr(module, name, lambda *_: None)
    drawn.write_fer2013(tmp_path / "fer2013.csv", 20, 5)
    points = keypoints_csv(tmp_path / "training.csv")
    changes = [f"unlabelled={points}", "grow=false", 'teachers=[{"epochs": 1}]', "aligned=0"]
    config = run.configure("emotion", str(tmp_path / "fer2013.csv"), changes=changes)
    out = tmp_path / "run"
    (out / "teacher1").mkdir(parents=True)
    for name in ("model.keras", "index.html"):
        (out / "teacher1" / name).touch()
    run.start(config, out, quiet=True)
    run.start(config, out, resume=True, quiet=True)
    # the same number of faces in another order
    pd.read_csv(points).iloc[::-1].to_csv(points, index=False)
    with pytest.raises(DataError, match=r"unlabelled: .*training\.csv has changed since the run was started"):
        run.start(config, out, resume=True, quiet=True)


def test_a_run_does_not_start_from_weights_with_another_class_order(tmp_path: Path) -> None:
    """Guards against outputs with each other's classes, which the shapes of the arrays would not show."""
    folders = {"awake": "neutral", "drowsy": "sad", "yawning": "surprise"}
    drawn.write_folders(tmp_path / "drivers", folders, 9, 6)
    labels = tmp_path / "drivers" / "labels.toml"
    labels.write_text(f"classes = {list(folders)}")
    config = run.configure("emotion", str(tmp_path / "drivers"), changes=["teachers=[]", "grow=false"])
    earlier = tmp_path / "before"
    earlier.mkdir()
    (earlier / "config.json").write_text(replace(config, classes=list(folders)).to_json())
    labels.write_text(f"classes = {list(folders)[::-1]}")
    start = {"start_from": str(earlier)}
    # nor does a teacher
    for changed in (replace(config, **start), replace(config, teachers=[start])):
        with pytest.raises(DataError, match="for awake, drowsy, yawning, this is for yawning, drowsy, awake"):
            run.start(changed, tmp_path / "run", quiet=True)


def test_a_run_without_faces_in_an_epoch_is_refused(tmp_path: Path) -> None:
    """Guards against advice to lower the learning rate when an epoch has no faces at all."""
    data = keypoints_csv(tmp_path / "training.csv")
    config = run.configure("keypoints", str(data), changes=['repeat={"training": 0}'])
    with pytest.raises(DataError, match=r"training\.csv: an epoch would show no face"):
        run.start(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


class Untrained(EmotionJob):
    """An emotion task that builds no network and ignores its teachers."""

    def build(self) -> None:
        """Build no network."""

    def learn_from(self, teachers: Sequence[Path], out: Path) -> None:
        """Ignore the teachers."""


def test_a_full_disk_in_the_first_epoch_leaves_a_resumable_run(tmp_path: Path) -> None:
    """Guards that the run can be resumed as the message says."""
    config = run.configure("keypoints", "training.csv")
    with (
        pytest.raises(TrainingError, match="no epoch was kept: start with --resume"),
        held_run_directory(config, tmp_path, resume=False),
        run.fit.writing(tmp_path, 0),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "best.weights.npz")
    with held_run_directory(config, tmp_path, resume=True):
        pass


def test_a_run_in_progress_is_left_alone(tmp_path: Path) -> None:
    """Guards against two runs that write the same files, and the configuration of the first."""
    config = run.configure("keypoints", "training.csv")
    with held_run_directory(config, tmp_path, resume=False):
        with (
            pytest.raises(DataError, match="another process trains here"),
            held_run_directory(config, tmp_path, resume=True),
        ):
            pass
        assert (tmp_path / "config.json").is_file()
    with held_run_directory(config, tmp_path, resume=True):
        pass


def test_a_run_that_failed_in_its_first_epoch_can_be_replaced_with_other_faces(tmp_path: Path) -> None:
    """Guards a second run on fixed data in the same folder, after the first loss of the first was not a number."""
    config = run.configure("keypoints", str(keypoints_csv(tmp_path / "training.csv")))
    faces, out = run.read_faces(config, quiet=True), tmp_path / "run"

    def fail() -> None:
        with held_run_directory(config, out, resume=False):
            expect_faces(faces, config, out)
            raise TrainingError("the loss is no number")

    with pytest.raises(TrainingError):
        fail()
    with held_run_directory(config, out, resume=False):
        expect_faces(faces.part("train"), config, out)


def test_a_users_keras_json_changes_nothing(tmp_path: Path) -> None:
    """Guards a keras.json with channels first, or with another float type, which ended in a traceback.

    An import alone leaves these settings, which may be for other networks of the same program.
    """
    settings = {"backend": "tensorflow", "floatx": "float16", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    code = """
import keras
from facexp_train.networks.builders import build_network
assert keras.config.floatx() == "float16", "changed by an import alone"
small = {"stem": 4, "stages": [8, 8], "blocks": 1}
points = build_network("keypoints", {**small, "head": 8}, size=96)
emotion = build_network("emotion", small, heads=("own",), classes=3)
assert (points.output.shape, points.output.dtype) == ((None, 15, 2), "float32"), points.output
assert emotion.get_layer("stage1_block1_out").output.shape == (None, 22, 22, 8)
assert keras.losses.MeanSquaredError().dtype == "float32"
"""
    environment = os.environ | {"KERAS_HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_configuration_is_found_next_to_the_one_that_names_it(tmp_path: Path) -> None:
    """Guards configurations used from another directory, and a network of another kind than the base's."""
    (tmp_path / "base.toml").write_text('config = "emotion"\nepochs = 7\nteachers = []\ngrow = false\n')
    (tmp_path / "mine.toml").write_text('config = "base.toml"\n[network]\nkind = "cnn"\nstages = [8, 16]\n')
    config = run.configure("emotion", "faces.csv", name=str(tmp_path / "mine.toml"))
    assert (config.epochs, config.network) == (7, {"kind": "cnn", "stages": [8, 16]})
    changes = ["network.kind=cnn", "network.stages=[8]"]
    assert run.configure("emotion", "faces.csv", changes=changes).network == {"kind": "cnn", "stages": [8]}
    with pytest.raises(DataError, match=r"nowhere\.toml: no such file"):
        run.configure("emotion", "faces.csv", name="nowhere.toml")


def test_the_command_that_repeats_a_run_works_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards relative paths of data, which must become absolute, in a teacher's settings too."""
    monkeypatch.chdir(tmp_path)
    config = run.configure("emotion", "faces.csv", changes=["unlabelled=points"])
    line = repeating(config, Path("out"))
    assert f"unlabelled={tmp_path / 'points'}" in line
    assert "unlabelled=points" not in line


def test_a_face_with_both_eyes_at_one_place_has_no_error() -> None:
    """Guards the mean error, which one mislabelled face would make infinite."""
    truth = np.random.default_rng(0).uniform(20, 76, (3, 15, 2)).astype(np.float32)
    truth[1, KEYPOINTS.index("left_eye_center")] = truth[1, KEYPOINTS.index("right_eye_center")]
    errors = metrics.keypoint_errors(truth + 1, truth)
    assert np.isfinite(errors.face).tolist() == [True, False, True]


def test_a_report_is_not_written_among_the_data(tmp_path: Path) -> None:
    """Guards a dataset with the name of one of the report's tables, which would be overwritten."""
    data = keypoints_csv(tmp_path / "points.csv")
    before = data.read_bytes()
    with pytest.raises(DataError, match="the report would be among the files of the data"):
        explore.explore(data, tmp_path, quiet=True)
    assert data.read_bytes() == before


def test_augmenting_keeps_an_existing_part_folder(tmp_path: Path) -> None:
    """Guards an unrelated folder with the name of the output folder and ".part"."""
    data = keypoints_csv(tmp_path / "training.csv", 12)
    (tmp_path / "more.part").mkdir()
    (tmp_path / "more.part" / "thesis.txt").touch()
    augmented_data.augment(data, tmp_path / "more", ["flip"], quiet=True)
    assert (tmp_path / "more.part" / "thesis.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["more", "more.part", "training.csv"]
