"""Measure the shipped emotion network's accuracy separately for faces of which it was trained on a copy.

    python benchmarks/near_copies.py EMOTION.onnx FER2013.csv [--split test]   # with FER+'s fer2013new.csv next to it

EMOTION.onnx is a file of an emotion network in its bundle. When the shipped network was trained, copies of validation
and test faces were found by an earlier rule, which missed copies with another crop; this file contains that rule.
Printed are the number of training faces by that rule, the number of them that today's rule leaves out (see
facexp_train.data.splits), and the accuracy on PublicTest, or on PrivateTest with `--split test`: on all faces, on those
with a copy among the training faces, on all others, and of these on the ones whose copies had been left out and the
ones that have no copies. Needs the extras `train` and `cpu`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

import facexp
from facexp.labels import FIVE, SEVEN
from facexp_export.figures import BundleModel
from facexp_train.data.emotion_data import EmotionFaces, read_emotion, usage_of
from facexp_train.data.splits import pixel_hash

Images = NDArray[np.uint8]
Mask = NDArray[np.bool_]

MAX_BITS = 8
MIN_CORRELATION = 0.9
BLOCK_ROWS = 1024


def difference_hashes(images: Images) -> NDArray[np.float32]:
    """Return difference hashes (N, 64): 1 if a cell of a 9x8 thumbnail is brighter than its left neighbour, else -1."""
    small = np.array([cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA) for image in images])
    return np.where(small[:, :, 1:] > small[:, :, :-1], 1, -1).reshape(len(images), 64).astype(np.float32)


def normalised_pixels(images: Images) -> NDArray[np.float32]:
    """Return normalised pixels, float32 (N, H * W), whose dot products are correlations."""
    values = images.reshape(len(images), images.shape[1] * images.shape[2]).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return values


def earlier_groups(images: Images) -> NDArray[np.int64]:
    """Return a group number for each of (N, 48, 48) images, equal for copies, by the rule of the shipped network.

    Two images are copies if their difference hashes differ in at most MAX_BITS bits and the correlation of their
    pixels, without any alignment, exceeds MIN_CORRELATION; one of the images may be mirrored.
    """
    _, first, which = np.unique(pixel_hash(images), return_index=True, return_inverse=True)
    pairs = [np.stack([np.arange(len(images)), first[which]], axis=1)]
    upright = difference_hashes(images)
    for others in (images, images[:, :, ::-1]):
        mirrored = difference_hashes(others)
        for start in range(0, len(images), BLOCK_ROWS):
            # each of the 64 bits that differs lowers the dot product by 2
            alike = upright[start : start + BLOCK_ROWS] @ mirrored.T
            near = np.argwhere(alike >= 64 - 2 * MAX_BITS)
            near[:, 0] += start
            near = near[near[:, 0] < near[:, 1]]
            for some in np.array_split(near, len(near) // BLOCK_ROWS + 1):
                correlation = np.einsum(
                    "np,np->n", normalised_pixels(images[some[:, 0]]), normalised_pixels(others[some[:, 1]])
                )
                pairs.append(some[correlation > MIN_CORRELATION])
    i, j = np.concatenate(pairs).T
    return np.asarray(connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(len(images),) * 2))[1])


def scores(faces: EmotionFaces, logits: dict[str, NDArray[np.float32]]) -> dict[str, tuple[Mask, Mask]]:
    """Return for each labelling which faces have a label, and which are answered correctly: two bool (N,) arrays."""
    five = [SEVEN.index(label) for label in FIVE]
    found = {}
    for title, head, truth in (
        ("FER2013's labels", "fer2013", faces.labels),
        ("FER+, more than half of all votes", "ferplus", faces.clear_majority()),
    ):
        of_five = np.full_like(logits[head], -np.inf)
        of_five[:, five] = logits[head][:, five]
        found[f"{title}, seven"] = truth >= 0, logits[head].argmax(axis=1) == truth
        found[f"{title}, five"] = np.isin(truth, five), of_five.argmax(axis=1) == truth
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", choices=["val", "test"], default="val")
    options = parser.parse_args()
    faces = read_emotion(options.data, whole=True)
    train = (faces.split == "train") & (faces.images.min(axis=(1, 2)) < faces.images.max(axis=(1, 2)))
    earlier = earlier_groups(faces.images)
    trained = train & ~np.isin(earlier, earlier[faces.split != "train"])
    missed = trained & np.isin(faces.copies, faces.copies[faces.split != "train"])
    print(f"facexp {facexp.__version__}, {options.model.name}: {trained.sum():,} faces trained, of which today's rule")
    print(f"leaves {missed.sum():,} out. Accuracy in %, and of how many faces:\n")
    shown = np.isin(faces.copies, faces.copies[trained])
    left_out = ~shown & (np.isin(faces.copies, faces.copies[train]) | np.isin(earlier, earlier[train]))
    held_out = faces.split == options.split
    part = faces.chosen(held_out)
    found = scores(part, BundleModel.open(options.model).predict(part.images[..., None]))
    print(f"| {usage_of(options.split)} | faces | {' | '.join(found)} |\n{'| --- ' * (len(found) + 2)}|")
    for name, rows in {
        "all": np.ones(len(part), dtype=np.bool_),
        "a copy trained": shown[held_out],
        "all others": ~shown[held_out],
        "of these, copies had been left out": left_out[held_out],
        "of these, no copies": ~(shown | left_out)[held_out],
    }.items():
        rights = [right[rated & rows] for rated, right in found.values()]
        cells = [f"{100 * right.mean():.1f} of {len(right):,}" for right in rights]
        print(f"| {name} | {rows.sum():,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
