"""Copies are found, and groups are divided among splits as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from drawn import smooth
from facexp_train.data import splits


def test_one_pixel_changes_the_pixel_hash() -> None:
    """Guards that equal images share a hash and that a single changed pixel does not."""
    images = smooth(3)
    images[1] = images[0]
    images[2] = images[0]
    images[2, 47, 47] ^= 1
    hashes = splits.pixel_hash(images)
    assert hashes[0] == hashes[1] != hashes[2]


def test_groups_join_copies_of_copies_in_any_order() -> None:
    """Guards that exact and near copies end in one group, named the same in any order of the images."""
    images = smooth(10)
    images[3] = images[0]
    images[7] = np.fliplr(images[3])
    groups = splits.duplicate_groups(images)
    assert groups[0] == groups[3] == groups[7]
    assert len(set(groups)) == 8
    order = np.random.default_rng(1).permutation(10)
    assert list(splits.duplicate_groups(images[order])) == list(groups[order])


def test_groups_follow_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards that a face with two copies that do not resemble each other keeps both in its group."""
    pairs = np.array([[0, 2], [0, 3], [1, 4], [3, 4]])
    monkeypatch.setattr(splits, "near_copies", lambda images, quiet: pairs)
    images = smooth(7)
    # pairs are of the images in the order of their hashes
    groups = splits.duplicate_groups(images[np.argsort(splits.pixel_hash(images))])
    assert len(set(groups[:5])) == 1
    assert len(set(groups)) == 3


def test_groups_are_never_divided_and_shares_are_kept() -> None:
    """Guards a split by group: whole groups, and shares of about 80/10/10."""
    groups = np.random.default_rng(0).integers(0, 300, 2000).astype(str)
    split = splits.split_by_group(groups, seed=3)
    assert all(len(set(split[groups == group])) == 1 for group in set(groups))
    assert [round(float((split == name).mean()), 1) for name in splits.SPLITS] == [0.8, 0.1, 0.1]


def test_a_split_depends_only_on_seed_and_group_names() -> None:
    """Guards that the same seed gives the same split in any order of the faces, and another seed another."""
    groups = np.random.default_rng(0).integers(0, 100, 500).astype(str)
    split = splits.split_by_group(groups, seed=1)
    order = np.random.default_rng(5).permutation(500)
    assert list(splits.split_by_group(groups[order], seed=1)) == list(split[order])
    assert list(splits.split_by_group(groups, seed=2)) != list(split)


@pytest.mark.parametrize(
    ("count", "expected"), [(0, set()), (1, {"train"}), (2, {"train", "val"}), (3, set(splits.SPLITS))]
)
def test_tiny_sets_get_training_faces_first(count: int, expected: set[str]) -> None:
    """Guards that a handful of faces still gets training faces, then validation, then test."""
    assert set(splits.split_by_group([str(i) for i in range(count)])) == expected


def test_the_largest_group_is_for_training() -> None:
    """Guards that one big group cannot take up the validation split."""
    groups = ["big"] * 70 + [str(i) for i in range(30)]
    assert all(splits.split_by_group(groups, seed)[0] == "train" for seed in range(8))


def test_missing_validation_comes_from_training() -> None:
    """Guards that named splits stay, and that only training faces move when there is no validation split."""
    groups = np.array([str(i // 2) for i in range(200)])
    named = np.array(["train"] * 160 + ["test"] * 40)
    split = splits.complete_split(named, groups)
    assert (split[160:] == "test").all()
    assert (split[:160] == "val").sum() == 16
    assert all(len(set(split[groups == group])) == 1 for group in set(groups))
    assert list(splits.complete_split(split, groups, seed=9)) == list(split)


def test_copies_of_test_faces_are_not_used_for_validation() -> None:
    """Guards the choice of the best epoch against copies of test faces that a file has under train."""
    groups = np.array([str(i % 100) for i in range(200)])
    named = np.array(["train"] * 150 + ["test"] * 50)
    split = splits.complete_split(named, groups)
    assert (split == "val").sum() == 10
    assert not set(groups[split == "val"]) & set(groups[split == "test"])
    # nothing is left to choose from
    assert set(splits.complete_split(named, np.array(["one"] * 200))) == {"train", "test"}
