"""Splits in which no face straddles: copies are found and grouped, and whole groups are divided."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from facexp_train.progress import progress_bar

Images = NDArray[np.uint8]
Details = NDArray[np.float32]
Texts = NDArray[np.str_]

SPLITS: tuple[str, ...] = ("train", "val", "test")

# Looked at on FER2013's training and validation faces: of 80 pairs above 0.85 that an earlier rule, which compared
# pixels where they lie, had not joined 79 show one photo, of 16 from 0.80 to 0.85 half, of 16 from 0.75 to 0.80 three.
MIN_CORRELATION = 0.85
_COMPARED_SIZE = 48
# 77% of it, at sides in pixels of up to 16% more or less; all sides from 27 to 47 find 504 copies where these find 495
_MIDDLE = slice(5, 42)
_MIDDLE_SIDES = (37, 34, 40, 32, 43)
# A look at half the size first, twice as quick: of FER2013's 340,986 candidates all 7,424 copies correlate by 0.72 and
# more there, and 85% of the others by less than this.
_HALF_SIDES = (18, 17, 20, 16, 21)
_MIN_HALF_CORRELATION = 0.65
# gray levels, as a standard deviation: nothing is to be compared in what has less
_LEAST_DETAIL = 1.0
# Of 599 copies that are found among the eight nearest by any of five kinds of thumbnails, this kind finds 568, by its
# four nearest 492; 19 of 20 of them resemble each other by more than 0.81.
_NEAREST = 8
_MIN_RESEMBLANCE = 0.8
_BLOCK_ROWS = 256


def pixel_hash(images: Images) -> Texts:
    """32 hex digits for each of (N, H, W) uint8 images: equal exactly when all pixels are equal."""
    return np.array([hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in images], dtype="U32")


def digest_of(faces: object) -> str:
    """32 hex digits for faces of either task: equal as long as their pictures, splits and labels are."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("images", "split", "labels", "votes", "points"):
        values = getattr(faces, name, None)
        if values is not None:
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def near_copies(images: Images, *, quiet: bool = True) -> NDArray[np.int64]:
    """(M, 2) pairs i < j of (N, H, W) uint8 images that show the same picture, upright or one of them mirrored.

    Images that resemble each other when small and blurred are compared in their detail: the middle of one is laid over
    the other at every place and several sizes, and somewhere it must correlate by more than MIN_CORRELATION. So another
    crop of a photo is found as well, moved by up to 5 of 48 pixels and up to 16% larger or smaller, and a change of
    light or a watermark hides none. Images without detail have no copies.
    """
    size = (_COMPARED_SIZE, _COMPARED_SIZE)
    faces = images
    if images.shape[1:] != size:
        faces = np.array([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images], dtype=np.uint8)
    kept = [(row, _half(detail)) for row, detail in enumerate(map(_detail, faces)) if _has_detail(detail)]
    rows, halves = np.array([row for row, _ in kept], dtype=np.int64), [half for _, half in kept]
    faces = faces[rows]
    pairs = _candidates(faces, quiet)
    parts = [pairs[start : start + _BLOCK_ROWS] for start in range(0, len(pairs), _BLOCK_ROWS)]
    found = [np.empty((0, 2), dtype=np.int64)]
    with progress_bar(len(pairs), "comparing", "pair", quiet=quiet) as bar, ThreadPoolExecutor() as pool:
        for part, same in zip(parts, pool.map(lambda part: _same_picture(faces, halves, part), parts), strict=True):
            found.append(part[same, :2])
            bar.update(len(part))
    # a picture may be a copy both ways
    return rows[np.unique(np.concatenate(found), axis=0)]


def _candidates(faces: Images, quiet: bool) -> NDArray[np.int64]:
    """(M, 3) rows i < j of (N, 48, 48) faces that are worth a closer look, and 1 where j is to be mirrored for it.

    Of each face the _NEAREST, as far as small and blurred they correlate by more than _MIN_RESEMBLANCE.
    """
    upright = _thumbnails(faces)
    # a face is nearest to itself
    nearest = min(_NEAREST + 1, len(faces))
    found = [np.empty((0, 3), dtype=np.int64)]
    with progress_bar(2 * len(faces), "finding copies", "image", quiet=quiet) as bar:
        for mirrored in (0, 1):
            others = _thumbnails(faces[:, :, ::-1]) if mirrored else upright
            for start in range(0, len(faces), _BLOCK_ROWS):
                alike = upright[start : start + _BLOCK_ROWS] @ others.T
                j = np.argpartition(-alike, nearest - 1, axis=1)[:, :nearest]
                i, place = np.nonzero(np.take_along_axis(alike, j, axis=1) > _MIN_RESEMBLANCE)
                pairs = np.sort(np.stack([i + start, j[i, place]], axis=1), axis=1)
                pairs = pairs[pairs[:, 0] < pairs[:, 1]]
                found.append(np.column_stack([pairs, np.full(len(pairs), mirrored)]))
                bar.update(len(alike))
    return np.unique(np.concatenate(found), axis=0)


def _thumbnails(faces: Images) -> NDArray[np.float32]:
    """(N, 144) pixels of (N, 48, 48) faces, small and blurred, so that a dot product is a correlation.

    Blurred by 2.5 pixels, and so much that a face which is moved by a few still resembles itself.
    """
    inner = slice(4, 44)
    small = [
        cv2.resize(cv2.GaussianBlur(face, (0, 0), 2.5)[inner, inner], (12, 12), interpolation=cv2.INTER_AREA)
        for face in faces
    ]
    values = np.array(small, dtype=np.float32).reshape(len(faces), 144)
    values -= values.mean(axis=1, keepdims=True)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return values


def _same_picture(faces: Images, halves: Sequence[Details], pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(M,) which of the `pairs` (see _candidates) show one picture; `halves` are the details of `faces`, halved."""
    same = []
    for i, some in itertools.groupby(pairs.tolist(), key=lambda pair: pair[0]):
        middle = _detail(faces[i])[_MIDDLE, _MIDDLE]
        half = _half(middle)
        for _, j, mirrored in some:
            same.append(
                _lies_in(cv2.flip(halves[j], 1) if mirrored else halves[j], half, _HALF_SIDES, _MIN_HALF_CORRELATION)
                and _lies_in(
                    _detail(faces[j, :, ::-1] if mirrored else faces[j]), middle, _MIDDLE_SIDES, MIN_CORRELATION
                )
            )
    return np.array(same, dtype=np.bool_)


def _lies_in(detail: Details, patch: Details, sides: Sequence[int], least: float) -> bool:
    """Does the patch, at any of the sides, correlate with any place of `detail` by more than `least`?"""
    return any(
        cv2.matchTemplate(detail, cv2.resize(patch, (side, side)), cv2.TM_CCOEFF_NORMED).max() > least for side in sides
    )


def _has_detail(detail: Details) -> bool:
    return bool(detail[_MIDDLE, _MIDDLE].std() > _LEAST_DETAIL)


def _half(detail: Details) -> Details:
    height, width = detail.shape
    return np.asarray(cv2.resize(detail, (width // 2, height // 2), interpolation=cv2.INTER_AREA), np.float32)


def _detail(face: Images) -> Details:
    """A face without what is finer than a pixel, which compression changes, and without its large bright and dark
    parts, in which strangers agree.
    """
    pixels = face.astype(np.float32)
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), 1) - cv2.GaussianBlur(pixels, (0, 0), 4))


def duplicate_groups(images: Images, *, quiet: bool = True) -> Texts:
    """A group name for each of (N, H, W) uint8 images: copies, exact or near, share one, and so do copies of copies.

    The name is the smallest pixel hash of the group, so that it does not depend on the order of the images.
    """
    # one of each, in the order of their names, so that what is found does not depend on the order of the images either
    names, first, which = np.unique(pixel_hash(images), return_index=True, return_inverse=True)
    i, j = near_copies(images[first], quiet=quiet).T
    pairs = coo_array((np.ones(len(i)), (i, j)), shape=(len(names), len(names)))
    group: NDArray[np.int32] = connected_components(pairs, directed=False)[1]
    smallest = np.unique(group, return_index=True)[1]
    return names[smallest[group[which]]]


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
