"""What is refused before a training takes hours, and what a run remembers of how it was begun."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facexp.geometry import KEYPOINTS
from facexp_train import augmented_data, explore, metrics, run
from facexp_train.command import repeating
from facexp_train.errors import DataError
from facexp_train.run_directory import expect_faces


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
    expect_faces(faces, config.data, tmp_path)
    expect_faces(faces, config.data, tmp_path)
    table = pd.read_csv(config.data).iloc[2:]
    table.to_csv(config.data, index=False)
    with pytest.raises(DataError, match=r"training\.csv: has changed since the run was started: 30 faces then and 28"):
        expect_faces(run.read_faces(config, quiet=True), config.data, tmp_path)


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
