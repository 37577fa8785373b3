"""Splits in which no face straddles: copies are found and grouped, and whole groups are divided."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from facexp_train.progress import progress_bar

Images = NDArray[np.uint8]
Texts = NDArray[np.str_]

SPLITS: tuple[str, ...] = ("train", "val", "test")

# Looked at on FER2013: of pairs within 8 bits nearly all above 0.90 show one photo, below 0.86 mostly two people.
# Equal hashes alone find a tenth of them, and 8 bits alone join strangers, so a pair has to pass both.
MAX_BITS = 8
MIN_CORRELATION = 0.9
_COMPARED_SIZE = 48
_BLOCK_ROWS = 1024


def pixel_hash(images: Images) -> Texts:
    """32 hex digits for each of (N, H, W) uint8 images: equal exactly when all pixels are equal."""
    return np.array([hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in images], dtype="U32")


def perceptual_hash(images: Images) -> NDArray[np.bool_]:
    """(N, 64) bits of (N, H, W) uint8 images: is a cell of an 8x9 thumbnail brighter than the one left of it?

    This difference hash barely changes with brightness, contrast, compression or a watermark.
    """
    bits = np.empty((len(images), 64), dtype=np.bool_)
    for index, image in enumerate(images):
        small = np.asarray(cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA))
        bits[index] = (small[:, 1:] > small[:, :-1]).ravel()
    return bits


def near_copies(images: Images, *, quiet: bool = True) -> NDArray[np.int64]:
    """(M, 2) pairs i < j of (N, H, W) uint8 images that show the same picture, upright or one of them mirrored.

    Their perceptual hashes differ in at most MAX_BITS bits and their pixels correlate by more than MIN_CORRELATION.
    Flat images have no correlation and so no copies.
    """
    size = (_COMPARED_SIZE, _COMPARED_SIZE)
    faces = images
    if images.shape[1:] != size:
        faces = np.array([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images], dtype=np.uint8)
    found = [np.empty((0, 2), dtype=np.int64)]
    signs = perceptual_hash(images).astype(np.float32) * 2 - 1
    with progress_bar(2 * len(images), "finding copies", "image", quiet=quiet) as bar:
        for flip in (1, -1):
            others = faces[:, :, ::flip]
            other_signs = perceptual_hash(others).astype(np.float32) * 2 - 1 if flip < 0 else signs
            for start in range(0, len(images), _BLOCK_ROWS):
                block = signs[start : start + _BLOCK_ROWS]
                # of 64 signs each bit that differs takes 2 from the product; earlier images were compared before
                i, j = np.nonzero(block @ other_signs[start:].T >= 64 - 2 * MAX_BITS)
                later = j > i
                pairs = np.stack([i[later], j[later]], axis=1) + start
                for part in range(0, len(pairs), _BLOCK_ROWS):
                    some = pairs[part : part + _BLOCK_ROWS]
                    alike = np.einsum("np,np->n", _unit(faces[some[:, 0]]), _unit(others[some[:, 1]]))
                    found.append(some[alike > MIN_CORRELATION])
                bar.update(len(block))
    return np.concatenate(found)


def duplicate_groups(images: Images, *, quiet: bool = True) -> Texts:
    """A group name for each of (N, H, W) uint8 images: copies, exact or near, share one, and so do copies of copies.

    The name is the smallest pixel hash of the group, so that it does not depend on the order of the images.
    """
    exact = pixel_hash(images)
    parent = list(range(len(images)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index, digest in enumerate(exact.tolist()):
        parent[index] = first.setdefault(digest, index)
    for i, j in near_copies(images, quiet=quiet).tolist():
        parent[root(i)] = root(j)
    roots = [root(index) for index in range(len(images))]
    name: dict[int, str] = {}
    for index, digest in zip(roots, exact.tolist(), strict=True):
        name[index] = min(name.get(index, digest), digest)
    return np.array([name[index] for index in roots], dtype="U32")


def split_by_group(groups: Sequence[str] | Texts, seed: int = 0, *, val: float = 0.1, test: float = 0.1) -> Texts:
    """ "train", "val" or "test" for each of N faces, whole groups together, about `val` and `test` of the faces each.

    The division depends on the seed and on the names of the groups, not on their order. The largest group always
    trains, so that one big group cannot swallow a small split.
    """
    names, inverse, sizes = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True, return_counts=True)
    if not len(names):
        return np.empty(0, dtype="U5")
    order = sorted(range(len(names)), key=lambda i: hashlib.blake2b(f"{seed}:{names[i]}".encode()).digest())
    order.remove(max(order, key=lambda i: int(sizes[i])))
    chosen = np.full(len(names), "train", dtype="U5")
    for split, share in (("val", val), ("test", test)):
        held = 0
        while order and held < share * len(inverse):
            chosen[order[0]] = split
            held += int(sizes[order.pop(0)])
    return chosen[inverse]


def with_validation(split: Texts, groups: Texts, seed: int = 0) -> Texts:
    """The (N,) split with a tenth of its training faces, whole groups, made "val" when it has none.

    Groups with a test face are no choice: what is validated on them would be chosen by faces that are tested on.
    """
    if "val" in split:
        return split
    split = split.astype("U5")
    free = (split == "train") & ~np.isin(groups, groups[split != "train"])
    split[free] = split_by_group(groups[free], seed, test=0)
    return split


def _unit(images: Images) -> NDArray[np.float32]:
    """(N, H * W) pixels without their mean, of length 1, so that a dot product is a correlation."""
    values = images.reshape(len(images), -1).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return values
