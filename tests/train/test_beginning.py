"""What is refused before a training takes hours, and what a run remembers of how it was begun."""

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
from facexp_train.fitting.run_directory import expect_faces, taken


def keypoints_csv(path: Path, count: int = 30) -> Path:
    """Kaggle's format, a face a row, each of its own noise."""
    rng = np.random.default_rng(0)
    columns = [f"{name}_{axis}" for name in KEYPOINTS for axis in "xy"]
    images = [" ".join(map(str, rng.integers(0, 256, 96 * 96))) for _ in range(count)]
    pd.DataFrame(rng.uniform(20, 76, (count, 30)), columns=columns).round(2).assign(
        group=range(count), Image=images
    ).to_csv(path, index=False)
    return path


def test_a_run_does_not_go_on_with_other_faces(tmp_path: Path) -> None:
    """Guards what teachers said of each face, and the answers to each, which are kept by its number."""
    config = run.configure("keypoints", str(keypoints_csv(tmp_path / "training.csv")))
    faces = run.read_faces(config, quiet=True)
    expect_faces(faces, config, tmp_path)
    expect_faces(faces, config, tmp_path)
    table = pd.read_csv(config.data).iloc[2:]
    table.to_csv(config.data, index=False)
    with pytest.raises(DataError, match=r"training\.csv: has changed since the run was started: 30 faces then and 28"):
        expect_faces(run.read_faces(config, quiet=True), config, tmp_path)


def test_a_run_does_not_go_on_with_other_unlabelled_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards what teachers said of them, which lies behind what they said of the labelled ones, by number too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(alignment, "alignments", lambda images, *_: np.tile(np.eye(2, 3), (len(images), 1, 1)))
    monkeypatch.setattr(run, "EmotionJob", Untrained)
    monkeypatch.setattr(run, "load_predict", lambda out: None)
    for module, name in ((run, "draw_samples"), (run, "draw_answers"), (run, "write_page"), (run.fit, "train")):
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
    # as many as before
    pd.read_csv(points).iloc[::-1].to_csv(points, index=False)
    with pytest.raises(DataError, match=r"unlabelled: .*training\.csv has changed since the run was started"):
        run.start(config, out, resume=True, quiet=True)


def test_a_run_does_not_start_with_the_weights_of_another_order_of_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards outputs that would stand for each other's classes: the arrays fit."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    named = {"awake": "neutral", "drowsy": "sad", "yawning": "surprise"}
    drawn.write_folders(tmp_path / "drivers", named, 9, 6)
    labels = tmp_path / "drivers" / "labels.toml"
    labels.write_text(f"classes = {list(named)}")
    config = run.configure("emotion", str(tmp_path / "drivers"), changes=["teachers=[]", "grow=false"])
    before = tmp_path / "before"
    before.mkdir()
    (before / "config.json").write_text(replace(config, classes=list(named)).to_json())
    labels.write_text(f"classes = {list(named)[::-1]}")
    started = {"start_from": str(before)}
    # a teacher does not either
    for changed in (replace(config, **started), replace(config, teachers=[started])):
        with pytest.raises(DataError, match="for awake, drowsy, yawning, this is for yawning, drowsy, awake"):
            run.start(changed, tmp_path / "run", quiet=True)


def test_a_run_that_would_show_no_face_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the advice to lower the rate, where nothing is learnt from."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = keypoints_csv(tmp_path / "training.csv")
    config = run.configure("keypoints", str(data), changes=['repeat={"training": 0}'])
    with pytest.raises(DataError, match=r"training\.csv: an epoch would show no face"):
        run.start(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


class Untrained(EmotionJob):
    """A task whose network and teachers are nobody."""

    def build(self) -> None:
        """None is needed."""

    def learn_from(self, teachers: Sequence[Path], out: Path) -> None:
        """They say nothing."""


def test_a_full_disk_in_the_first_epoch_leaves_a_run_to_resume(tmp_path: Path) -> None:
    """Guards the command that the message tells to go on with."""
    config = run.configure("keypoints", "training.csv")
    with (
        pytest.raises(TrainingError, match="no epoch was kept: start with --resume"),
        taken(config, tmp_path, resume=False),
        run.fit.writing(tmp_path, 0),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "best.weights.npz")
    with taken(config, tmp_path, resume=True):
        pass


def test_a_run_that_is_under_way_is_left_alone(tmp_path: Path) -> None:
    """Guards files that two runs would write at the same time, and the configuration of the first."""
    config = run.configure("keypoints", "training.csv")
    with taken(config, tmp_path, resume=False):
        with pytest.raises(DataError, match="another process trains here"), taken(config, tmp_path, resume=True):
            pass
        assert (tmp_path / "config.json").is_file()
    with taken(config, tmp_path, resume=True):
        pass


def test_what_was_no_run_leaves_its_place_to_other_faces(tmp_path: Path) -> None:
    """Guards a run whose first loss is no number, and a second one on mended data."""
    config = run.configure("keypoints", str(keypoints_csv(tmp_path / "training.csv")))
    faces, out = run.read_faces(config, quiet=True), tmp_path / "run"

    def fail() -> None:
        with taken(config, out, resume=False):
            expect_faces(faces, config, out)
            raise TrainingError("the loss is no number")

    with pytest.raises(TrainingError):
        fail()
    with taken(config, out, resume=False):
        expect_faces(faces.part("train"), config, out)


def test_what_keras_is_told_for_other_networks_changes_nothing(tmp_path: Path) -> None:
    """Guards a keras.json with channels first, or with another type of numbers, which ended in a traceback."""
    told = {"backend": "tensorflow", "floatx": "float16", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(told))
    code = """
import keras
from facexp_train.networks.builders import build_network
small = {"stem": 4, "stages": [8, 8], "blocks": 1}
points = build_network("keypoints", {**small, "head": 8}, size=96)
emotion = build_network("emotion", small, heads=("own",), classes=3)
assert (points.output.shape, points.output.dtype) == ((None, 15, 2), "float32"), points.output
assert emotion.get_layer("stage1_block1_out").output.shape == (None, 22, 22, 8)
assert keras.losses.MeanSquaredError().dtype == "float32"
"""
    environment = os.environ | {"KERAS_HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_configuration_is_found_beside_the_one_that_names_it(tmp_path: Path) -> None:
    """Guards folders of configurations that are used from elsewhere, and a network of another kind than the base's."""
    (tmp_path / "base.toml").write_text('config = "emotion"\nepochs = 7\nteachers = []\ngrow = false\n')
    (tmp_path / "mine.toml").write_text('config = "base.toml"\n[network]\nkind = "cnn"\nstages = [8, 16]\n')
    found = run.configure("emotion", "faces.csv", name=str(tmp_path / "mine.toml"))
    assert (found.epochs, found.network) == (7, {"kind": "cnn", "stages": [8, 16]})
    changes = ["network.kind=cnn", "network.stages=[8]"]
    assert run.configure("emotion", "faces.csv", changes=changes).network == {"kind": "cnn", "stages": [8]}
    with pytest.raises(DataError, match=r"nowhere\.toml: no such file"):
        run.configure("emotion", "faces.csv", name="nowhere.toml")


def test_the_command_that_repeats_a_run_works_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards relative names of data, also those among a teacher's settings."""
    monkeypatch.chdir(tmp_path)
    config = run.configure("emotion", "faces.csv", changes=["unlabelled=points"])
    line = repeating(config, Path("out"))
    assert f"unlabelled={tmp_path / 'points'}" in line
    assert "unlabelled=points" not in line


def test_eyes_at_one_place_are_no_unit() -> None:
    """Guards a mean that one face with a slip in its labels would make infinite."""
    truth = np.random.default_rng(0).uniform(20, 76, (3, 15, 2)).astype(np.float32)
    truth[1, KEYPOINTS.index("left_eye_center")] = truth[1, KEYPOINTS.index("right_eye_center")]
    errors = metrics.keypoint_errors(truth + 1, truth)
    assert np.isfinite(errors.face).tolist() == [True, False, True]


def test_a_report_does_not_lie_among_the_data(tmp_path: Path) -> None:
    """Guards a dataset called as one of the report's tables, which would be written over."""
    data = keypoints_csv(tmp_path / "points.csv")
    before = data.read_bytes()
    with pytest.raises(DataError, match="the report would lie among the files of the data"):
        explore.explore(data, tmp_path, quiet=True)
    assert data.read_bytes() == before


def test_copies_take_no_folder_of_another_name(tmp_path: Path) -> None:
    """Guards a folder that is called as the copies' own with ".part" behind it."""
    data = keypoints_csv(tmp_path / "training.csv", 12)
    (tmp_path / "more.part").mkdir()
    (tmp_path / "more.part" / "thesis.txt").touch()
    augmented_data.augment(data, tmp_path / "more", ["flip"], quiet=True)
    assert (tmp_path / "more.part" / "thesis.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["more", "more.part", "training.csv"]
