"""Near copies: pairs of images that show the same picture, in another crop, size, brightness or in the mirror."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from facexp_train.progress import progress_bar

Images = NDArray[np.uint8]
Details = NDArray[np.float32]
Rows = NDArray[np.int64]

# Chosen by inspecting pairs of FER2013's training and validation faces that an earlier rule, which compared pixels at
# the same position, had not joined: of 80 that correlate by more than 0.85, 79 show the same photo; of 16 from 0.80 to
# 0.85, half; of 16 from 0.75 to 0.80, three.
MIN_CORRELATION = 0.85
_COMPARED_SIZE = 48
# The middle of a face, 77% of its side, is resized to these sides in pixels, up to 16% more or less. All sides from 27
# to 47 find 504 copies where these find 495.
_MIDDLE = slice(5, 42)
_MIDDLE_SIDES = (37, 34, 40, 32, 43)
# A first comparison at half the size: of FER2013's 340,986 candidate pairs, all 7,424 copies correlate there by 0.72 or
# more, and 85% of the others by less than _MIN_HALF_CORRELATION.
_HALF_SIDES = (18, 17, 20, 16, 21)
_MIN_HALF_CORRELATION = 0.65
# standard deviation in gray levels below which a face has too little detail to be compared
_MIN_DETAIL = 1.0
# Of 599 copies that are among the eight nearest by any of five kinds of thumbnails, this kind finds 568 with its eight
# nearest and 492 with its four nearest; 19 of 20 of them have a thumbnail correlation above 0.81.
_NEAREST = 8
_MIN_RESEMBLANCE = 0.8
_BLOCK_ROWS = 256
_BLOCK_PAIRS = 512


def near_copies(images: Images, *, quiet: bool = True) -> Rows:
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
    rows, halves = _halves(faces)
    if not rows.size:
        return np.empty((0, 2), dtype=np.int64)
    faces = faces[rows]
    pairs = _candidates(faces, quiet)
    parts = [pairs[start : start + _BLOCK_PAIRS] for start in range(0, len(pairs), _BLOCK_PAIRS)]
    found = [np.empty((0, 2), dtype=np.int64)]
    with progress_bar(len(pairs), "comparing", "pair", quiet=quiet) as bar, ThreadPoolExecutor() as pool:
        for part, same in zip(parts, pool.map(lambda part: _same_picture(faces, halves, part), parts), strict=True):
            found.append(part[same, :2])
            bar.update(len(part))
    # a pair may match both as it is and mirrored, so pairs are made unique
    return rows[np.unique(np.concatenate(found), axis=0)]


def _candidates(faces: Images, quiet: bool) -> Rows:
    """(M, 3) candidate pairs of (N, 48, 48) faces: rows i < j, and 1 if i must be mirrored for the comparison, else 0.

    These are each face and its _NEAREST others, if their thumbnails correlate by more than _MIN_RESEMBLANCE.
    """
    upright = _thumbnails(faces)
    found = [np.empty((0, 3), dtype=np.int64)]
    with progress_bar(2 * len(faces), "finding copies", "image", quiet=quiet) as bar:
        for mirrored in (0, 1):
            others = _thumbnails(faces[:, :, ::-1]) if mirrored else upright
            for start in range(0, len(faces), _BLOCK_ROWS):
                correlations = upright[start : start + _BLOCK_ROWS] @ others.T
                nearest = [_nearest(row) for row in correlations]
                i = np.repeat(np.arange(start, start + len(nearest)), [len(row) for row in nearest])
                pairs = np.sort(np.stack([i, np.concatenate(nearest)], axis=1), axis=1)
                pairs = pairs[pairs[:, 0] < pairs[:, 1]]
                found.append(np.column_stack([pairs, np.full(len(pairs), mirrored)]))
                bar.update(len(correlations))
    return np.unique(np.concatenate(found), axis=0)


def _nearest(correlations: NDArray[np.float32]) -> Rows:
    """Of one face's (N,) thumbnail correlations, the places of the largest, if above _MIN_RESEMBLANCE."""
    places = np.flatnonzero(correlations > _MIN_RESEMBLANCE)
    # one more, because each face is its own nearest one
    if len(places) > _NEAREST + 1:
        places = places[np.argpartition(-correlations[places], _NEAREST)[: _NEAREST + 1]]
    return places


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


@dataclass(frozen=True, slots=True)
class _Searchable:
    """N details of `size` pixels a side in which patches of the sides `sides` can be searched."""

    size: int
    sides: Sequence[int]
    spectra: NDArray[np.complex64]
    """(N, size, size // 2 + 1) Fourier transforms."""
    norms: list[NDArray[np.float32]]
    """For each side (N, size - side + 1, size - side + 1): the norm of the part at each position, less its mean."""


def _searchable(details: Details, sides: Sequence[int]) -> _Searchable:
    count, size, _ = details.shape
    norms = [np.empty((count, size - side + 1, size - side + 1), dtype=np.float32) for side in sides]
    for start in range(0, count, _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        values = details[rows].astype(np.float64)
        sums, squares = _sums(values), _sums(values**2)
        for side, norm in zip(sides, norms, strict=True):
            variation = _inside(squares, side) - _inside(sums, side) ** 2 / side**2
            # a part without detail correlates with nothing
            norm[rows] = np.sqrt(np.maximum(variation, 1e-6))
    return _Searchable(size, sides, fft.rfft2(details), norms)


def _halves(faces: Images) -> tuple[Rows, _Searchable]:
    """The rows of the (N, 48, 48) faces that have enough detail, and their details at half the size."""
    kept = np.empty(len(faces), dtype=np.bool_)
    halves = np.empty((len(faces), _COMPARED_SIZE // 2, _COMPARED_SIZE // 2), dtype=np.float32)
    for row, detail in enumerate(map(_detail, faces)):
        kept[row], halves[row] = _has_detail(detail), _half(detail)
    return np.flatnonzero(kept), _searchable(halves[kept], _HALF_SIDES)


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, H + 1, H + 1) integral images of (N, H, H) values."""
    return np.pad(values.cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))


def _inside(sums: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """The sums over the squares of a side at every position, from integral images."""
    return sums[:, side:, side:] - sums[:, :-side, side:] - sums[:, side:, :-side] + sums[:, :-side, :-side]


def _same_picture(faces: Images, halves: _Searchable, pairs: Rows) -> NDArray[np.bool_]:
    """(M,) bool: which of the `pairs` (see _candidates) show the same picture.

    `halves` are the details of `faces` at half the size.
    """
    i, j, mirrored = pairs.T
    patches, which = np.unique(np.stack([i, mirrored], axis=1), axis=0, return_inverse=True)
    middles = [_detail(faces[row])[_MIDDLE, _MIDDLE] for row, _ in patches]
    middles = [np.fliplr(middle).copy() if flip else middle for middle, (_, flip) in zip(middles, patches, strict=True)]
    same = _best_matches([_half(middle) for middle in middles], which, halves, j) > _MIN_HALF_CORRELATION
    if same.any():
        needed, which = np.unique(which[same], return_inverse=True)
        rows, where = np.unique(j[same], return_inverse=True)
        full = _searchable(np.array([_detail(faces[row]) for row in rows]), _MIDDLE_SIDES)
        same[same] = _best_matches([middles[patch] for patch in needed], which, full, where) > MIN_CORRELATION
    return same


def _best_matches(patches: Sequence[Details], which: Rows, details: _Searchable, rows: Rows) -> NDArray[np.float32]:
    """(M,) largest correlations of the patch `which[k]`, at any of the sides, with a part of the detail `rows[k]`.

    By Fourier transforms (Lewis, "Fast template matching", Vision Interface 1995). `cv2.matchTemplate` gives the same,
    and transforms a detail again for each of its patches.
    """
    padded = np.zeros((len(patches), len(details.sides), details.size, details.size), dtype=np.float32)
    for place, side in enumerate(details.sides):
        resized = np.array([cv2.resize(patch, (side, side)) for patch in patches])
        resized -= resized.mean(axis=(1, 2), keepdims=True)
        padded[:, place, :side, :side] = resized / np.linalg.norm(resized, axis=(1, 2), keepdims=True)
    products = np.conj(fft.rfft2(padded))[which] * details.spectra[rows, None]
    matches = fft.irfft2(products, s=(details.size, details.size))
    best = [
        (matches[:, place, : norms.shape[1], : norms.shape[2]] / norms[rows]).max(axis=(1, 2))
        for place, norms in enumerate(details.norms)
    ]
    return np.asarray(np.max(best, axis=0), dtype=np.float32)


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
