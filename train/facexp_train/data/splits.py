"""Splits into train, val and test that no picture crosses: copies are grouped, and groups are kept together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from facexp_train.data.copies import Images, near_copies

Texts = NDArray[np.str_]

SPLITS: tuple[str, ...] = ("train", "val", "test")


def pixel_hash(images: Images) -> Texts:
    """32 hex digits for each of (N, H, W) uint8 images: equal if and only if all pixels are equal."""
    return np.array([hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in images], dtype="U32")


def digest_of(faces: object) -> str:
    """32 hex digits for the faces of either task: equal if their pictures, splits, labels, votes and points are."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("images", "split", "labels", "votes", "points"):
        values = getattr(faces, name, None)
        if values is not None:
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def duplicate_groups(images: Images, *, quiet: bool = True) -> Texts:
    """A group name for each of (N, H, W) uint8 images: exact and near copies share one, and so do copies of copies.

    The name is the smallest pixel hash of the group, so that it does not depend on the order of the images.
    """
    # one image of each hash, sorted by hash, so that the pairs do not depend on the order of the images either
    names, first, which = np.unique(pixel_hash(images), return_index=True, return_inverse=True)
    i, j = near_copies(images[first], quiet=quiet).T
    pairs = coo_array((np.ones(len(i)), (i, j)), shape=(len(names), len(names)))
    group: NDArray[np.int32] = connected_components(pairs, directed=False)[1]
    smallest = np.unique(group, return_index=True)[1]
    return names[smallest[group[which]]]


def split_by_group(groups: Sequence[str] | Texts, seed: int = 0, *, test: float = 0.1) -> Texts:
    """The split of each of N faces: "val" for about a tenth of them, "test" for a share of `test`, else "train".

    Faces of a group are in the same split. The result depends on the seed and the names of the groups, not on their
    order. The largest group is always in "train", so that it cannot fill a small split by itself.
    """
    names, inverse, sizes = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True, return_counts=True)
    if not len(names):
        return np.empty(0, dtype="U5")
    order = sorted(range(len(names)), key=lambda i: hashlib.blake2b(f"{seed}:{names[i]}".encode()).digest())
    order.remove(max(order, key=lambda i: int(sizes[i])))
    chosen = np.full(len(names), "train", dtype="U5")
    for split, share in (("val", 0.1), ("test", test)):
        held = 0
        while order and held < share * len(inverse):
            chosen[order[0]] = split
            held += int(sizes[order.pop(0)])
    return chosen[inverse]


def complete_split(split: Texts, groups: Texts, seed: int = 0) -> Texts:
    """The (N,) split that a file names; if it is empty, one by group.

    If it has no "val", a tenth of the training faces, in whole groups, is "val". Groups with a test face stay in
    "train": otherwise the best epoch would be chosen on faces of the test groups.
    """
    if not split.size:
        return split_by_group(groups, seed)
    if "val" in split:
        return split
    split = split.astype("U5")
    free = (split == "train") & ~np.isin(groups, groups[split != "train"])
    split[free] = split_by_group(groups[free], seed, test=0)
    return split
