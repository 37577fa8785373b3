"""Batches of faces: which faces an epoch has, how each point is weighted, and what a teacher adds."""

import dataclasses

import numpy as np
import pytest

from facexp.geometry import KEYPOINTS
from facexp_train.augmentation.alignment import TrainingFaces
from facexp_train.config import Augmentation, TrainConfig
from facexp_train.data.keypoint_data import KeypointFaces
from facexp_train.fitting.batches import EmotionBatches, KeypointBatches
from facexp_train.keypoints import KeypointJob

OFF = Augmentation(flip=0, rotation=0, scale=0, shift=0, brightness=0, contrast=0, erasing=0)
LEFT, RIGHT, NOSE = (KEYPOINTS.index(name) for name in ("left_eye_center", "right_eye_center", "nose_tip"))


def faces() -> KeypointFaces:
    """Five faces with all points, the last two of the source "few", and five with only the nose."""
    points = np.random.default_rng(0).uniform(20, 70, (10, 15, 2)).astype(np.float32)
    points[:5, LEFT], points[:5, RIGHT] = (60, 40), (30, 40)
    points[4, RIGHT] = (58, 40)
    points[5:, :NOSE] = points[5:, NOSE + 1 :] = np.nan
    return KeypointFaces(
        images=np.zeros((10, 96, 96), np.uint8),
        points=points,
        squares=np.tile([47.5, 47.5, 96.0], (10, 1)),
        source=np.array(["many"] * 3 + ["few"] * 2 + ["nose"] * 5),
        group=np.arange(10).astype(str),
        split=np.full(10, "train"),
        names=np.arange(10).astype(str),
        upscale=np.full(10, np.nan),
    )


def config(**changes: object) -> TrainConfig:
    return TrainConfig(task="keypoints", data="", batch_size=10, augmentation=OFF, **changes)  # type: ignore[arg-type]


def test_an_epoch_repeats_a_source_and_draws_some_partly_labelled_faces() -> None:
    batches = KeypointBatches(faces(), 96, config(partial_share=0.4, repeat={"few": 3, "elsewhere": 9}))
    assert batches.count == 3 + 2 * 3 + 2
    drawn = set()
    for epoch in range(20):
        rows, counts = np.unique(batches.order(np.random.default_rng(epoch)), return_counts=True)
        assert dict(zip(rows[:5].tolist(), counts[:5].tolist(), strict=True)) == {0: 1, 1: 1, 2: 1, 3: 3, 4: 3}
        assert counts[5:].tolist() == [1, 1]
        drawn |= set(rows[5:].tolist())
    assert drawn == {5, 6, 7, 8, 9}


def test_shuffling_and_augmentation_use_independent_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the seeds: numpy ignores a trailing 0 in a seed, so that two of them would be equal."""
    batches, drawn = KeypointBatches(faces(), 96, config()), []

    def record(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        drawn.append(rng.random())
        return rows

    monkeypatch.setattr(batches, "order", lambda rng: record(np.arange(10), rng))
    monkeypatch.setattr(batches, "batch", record)
    for batches.epoch, index in ((0, 0), (0, 1), (1, 0)):
        batches[index]
    # each batch of an epoch draws the order again, from the same seed
    assert drawn[0] == drawn[2]
    assert len(set(drawn)) == 5


def test_a_point_weighs_one_over_the_inter_ocular_distance() -> None:
    batches = KeypointBatches(faces(), 96, config())
    crops, target = batches.batch(np.arange(10), np.random.default_rng(0))
    assert np.asarray(crops).shape == (10, 96, 96, 1)
    assert target[0, :, 2] == pytest.approx(np.full(15, 1 / 30))
    # in a profile, the distance counts as at least an eighth of the crop
    assert target[4, :, 2] == pytest.approx(np.full(15, 1 / 12))
    assert np.flatnonzero(target[7, :, 2]).tolist() == [NOSE]
    assert target[7, NOSE, 2] == pytest.approx(1 / (0.37 * 96))
    assert target[7, NOSE, :2] == pytest.approx(faces().points[7, NOSE], abs=1e-3)


def test_faces_with_wrong_labels_are_left_out_of_training_only() -> None:
    all_faces = faces()
    all_faces.split[:2] = "val"
    job = KeypointJob(all_faces, config(leave_out=["1", "3", "elsewhere"]))
    assert job.faces.names.tolist() == ["0", "1", "2", "4", "5", "6", "7", "8", "9"]
    assert job.batches.count == 7
    assert job.summary() == {"faces": {"few/train": 1, "many/train": 1, "many/val": 2, "nose/train": 5}}


def test_the_last_epochs_use_the_settled_augmentation() -> None:
    # guards which epoch is the first settled one
    settled = Augmentation(flip=1, rotation=0, scale=0, shift=0, brightness=0, contrast=0, erasing=0)
    batches = KeypointBatches(faces(), 96, config(epochs=5, settle_epochs=2, settled=settled))
    flips = []
    for batches.epoch in range(5):
        flips.append(batches.augmentation.flip)
    assert flips == [0, 0, 0, 1, 1]
    batches.epoch = 2
    before = batches[0][1]
    batches.epoch = 3
    assert not np.allclose(np.sort(before[..., 0].ravel()), np.sort(batches[0][1][..., 0].ravel()))


def test_a_teacher_sees_the_clean_crop_and_is_the_only_target_without_a_label() -> None:
    # guards which crop the teacher sees, and how its prediction is weighted
    strong = dataclasses.replace(OFF, flip=1, erasing=1, noise=0.1, jpeg=1)
    images = np.tile(np.arange(48, dtype=np.uint8) * 5, (6, 48, 1))
    labels = {"own": np.eye(7, dtype=np.float32)[[0, 1, 2, 3, 4, 5]], "other": np.zeros((6, 7), np.float32)}
    settings = TrainConfig(task="emotion", data="", batch_size=6, augmentation=strong, teacher_share=0.25)
    batches, seen = EmotionBatches(TrainingFaces(images, 48, labels), settings), []

    def teach(crops: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(crops)
        return dict.fromkeys(("own", "other"), np.full((len(crops), 7), 1 / 7, np.float32))

    batches.teach = teach
    crops, targets = batches.batch(np.arange(6), np.random.default_rng(0))
    assert np.array_equal(seen[0][..., 0], images[:, :, ::-1])
    assert not np.array_equal(np.asarray(crops), seen[0])
    assert targets["own"] == pytest.approx(0.75 * labels["own"] + 0.25 / 7)
    assert targets["other"] == pytest.approx(np.full((6, 7), 1 / 7))
