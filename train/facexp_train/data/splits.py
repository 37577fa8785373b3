"""Splits into train, val and test that no picture crosses: copies are grouped, and groups are kept together."""

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

# Chosen by inspecting pairs of FER2013's training and validation faces that an earlier rule, which compared pixels at
# the same position, had not joined: of 80 that correlate by more than 0.85, 79 show the same photo; of 16 from 0.80 to
# 0.85, half; of 16 from 0.75 to 0.80, three.
MIN_CORRELATION = 0.85
_COMPARED_SIZE = 48
# The middle of a face, 77% of its side, is resized to these sides in pixels, up to 16% more or less. All sides from 27
# to 47 find 504 copies where these find 495.
_MIDDLE = slice(5, 42)
_MIDDLE_SIDES = (37, 34, 40, 32, 43)
# A first comparison at half the size makes the search twice as fast: of FER2013's 340,986 candidate pairs, all 7,424
# copies correlate there by 0.72 or more, and 85% of the others by less than _MIN_HALF_CORRELATION.
_HALF_SIDES = (18, 17, 20, 16, 21)
_MIN_HALF_CORRELATION = 0.65
# standard deviation in gray levels below which a face has too little detail to be compared
_MIN_DETAIL = 1.0
# Of 599 copies that are among the eight nearest by any of five kinds of thumbnails, this kind finds 568 with its eight
# nearest and 492 with its four nearest; 19 of 20 of them have a thumbnail correlation above 0.81.
_NEAREST = 8
_MIN_RESEMBLANCE = 0.8
_BLOCK_ROWS = 256


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


def near_copies(images: Images, *, quiet: bool = True) -> NDArray[np.int64]:
    """(M, 2) int64 pairs i < j of (N, H, W) uint8 images that show the same picture, as it is or mirrored.

    Images with similar small, blurred thumbnails are compared in their detail: the middle of one is matched against the
    other at every position and several sizes, and the best match must correlate by more than MIN_CORRELATION. This also
    finds other crops of a photo, moved by up to 5 of 48 pixels and up to 16% larger or smaller, and copies with another
    brightness or a watermark. Images without detail have no copies.
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
    # a pair may match both as it is and mirrored, so pairs are made unique
    return rows[np.unique(np.concatenate(found), axis=0)]


def _candidates(faces: Images, quiet: bool) -> NDArray[np.int64]:
    """(M, 3) candidate pairs of (N, 48, 48) faces: rows i < j, and 1 if j must be mirrored for the comparison, else 0.

    These are each face and its _NEAREST others, if their thumbnails correlate by more than _MIN_RESEMBLANCE.
    """
    upright = _thumbnails(faces)
    # one more, because each face is its own nearest one
    nearest = min(_NEAREST + 1, len(faces))
    found = [np.empty((0, 3), dtype=np.int64)]
    with progress_bar(2 * len(faces), "finding copies", "image", quiet=quiet) as bar:
        for mirrored in (0, 1):
            others = _thumbnails(faces[:, :, ::-1]) if mirrored else upright
            for start in range(0, len(faces), _BLOCK_ROWS):
                correlations = upright[start : start + _BLOCK_ROWS] @ others.T
                j = np.argpartition(-correlations, nearest - 1, axis=1)[:, :nearest]
                i, place = np.nonzero(np.take_along_axis(correlations, j, axis=1) > _MIN_RESEMBLANCE)
                pairs = np.sort(np.stack([i + start, j[i, place]], axis=1), axis=1)
                pairs = pairs[pairs[:, 0] < pairs[:, 1]]
                found.append(np.column_stack([pairs, np.full(len(pairs), mirrored)]))
                bar.update(len(correlations))
    return np.unique(np.concatenate(found), axis=0)


def _thumbnails(faces: Images) -> NDArray[np.float32]:
    """(N, 144) thumbnails of (N, 48, 48) faces, normalised so that a dot product of two is their correlation.

    The blur of 2.5 pixels is strong enough that a face which is moved by a few pixels is still similar to itself.
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
    """(M,) bool: which of the `pairs` (see _candidates) show the same picture.

    `halves` are the details of `faces` at half the size.
    """
    same = []
    for i, pairs_of_i in itertools.groupby(pairs.tolist(), key=lambda pair: pair[0]):
        middle = _detail(faces[i])[_MIDDLE, _MIDDLE]
        half = _half(middle)
        for _, j, mirrored in pairs_of_i:
            same.append(
                _matches(cv2.flip(halves[j], 1) if mirrored else halves[j], half, _HALF_SIDES, _MIN_HALF_CORRELATION)
                and _matches(
                    _detail(faces[j, :, ::-1] if mirrored else faces[j]), middle, _MIDDLE_SIDES, MIN_CORRELATION
                )
            )
    return np.array(same, dtype=np.bool_)


def _matches(detail: Details, patch: Details, sides: Sequence[int], minimum: float) -> bool:
    """Whether the patch, resized to any of the sides, correlates with a part of `detail` by more than `minimum`."""
    return any(
        cv2.matchTemplate(detail, cv2.resize(patch, (side, side)), cv2.TM_CCOEFF_NORMED).max() > minimum
        for side in sides
    )


def _has_detail(detail: Details) -> bool:
    return bool(detail[_MIDDLE, _MIDDLE].std() > _MIN_DETAIL)


def _half(detail: Details) -> Details:
    height, width = detail.shape
    return np.asarray(cv2.resize(detail, (width // 2, height // 2), interpolation=cv2.INTER_AREA), np.float32)


def _detail(face: Images) -> Details:
    """A band-pass filtered face, float32.

    It has neither the finest detail, which compression changes, nor the large bright and dark areas, which are similar
    in the faces of different people.
    """
    pixels = face.astype(np.float32)
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), 1) - cv2.GaussianBlur(pixels, (0, 0), 4))


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
