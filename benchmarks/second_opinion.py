"""Count faces found and false positives of the detector alone, and of facexp, which confirms faces by keypoints.

    python benchmarks/second_opinion.py shared/data

The pictures are gray mosaics of validation crops, with faces of 20, 28 and 40 pixels, and the sample photos with and
without faces, in colour and in gray, at their own size and at 480, 320 and 240 pixels. "Others" are boxes that contain
no labelled face; some of them are faces.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import facexp
from facexp.detector import Box, Detector
from facexp_train.data.keypoint_data import CANVAS, KAGGLE_SIZE, read_keypoints

ROWS, COLUMNS = 8, 12
Find = Callable[[NDArray[np.uint8]], list[Box]]


def face_finders() -> dict[str, Find]:
    """Return functions that find faces, by name: the detector at several thresholds, and facexp."""
    alone = {f"detector alone, {score}": Detector(min_score=score) for score in (0.5, 0.6, 0.7, 0.8)}
    analyzer = facexp.Analyzer("cpu")
    found: dict[str, Find] = {
        name: lambda image, detector=detector: [face.box for face in detector.detect(image)]  # type: ignore[misc]
        for name, detector in alone.items()
    }
    return found | {"facexp": lambda image: [face.box for face in analyzer.analyze(image)]}


def mosaics(canvases: NDArray[np.uint8], face: int) -> tuple[int, list[NDArray[np.uint8]]]:
    """Return the side of a scaled canvas, and mosaics of ROWS x COLUMNS canvases whose faces are `face` pixels."""
    side = round(CANVAS * face / KAGGLE_SIZE)
    small = [cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA) for canvas in canvases]
    each = ROWS * COLUMNS
    pictures = [
        np.vstack([np.hstack(small[start + row * COLUMNS : start + (row + 1) * COLUMNS]) for row in range(ROWS)])
        for start in range(0, len(small) - each + 1, each)
    ]
    return side, pictures


def hits(boxes: list[Box], side: int) -> int:
    """Return the number of canvases that have a box near their middle."""
    cells = set()
    for x, y, width, height in boxes:
        across, down = (x + width / 2) / side, (y + height / 2) / side
        if max(abs(across % 1 - 0.5), abs(down % 1 - 0.5)) < 0.2:
            cells.add((int(down), int(across)))
    return len(cells)


@dataclass(frozen=True)
class Sample:
    """A sample photo."""

    image: NDArray[np.uint8]
    faces: int
    """Maximum number of faces, according to its label."""


def samples(folder: Path) -> list[Sample]:
    """Read the photos with and without faces, except the portraits in expressions/, whose faces all candidates find."""
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["path"].startswith(("photos/", "no_face/"))]
    return [Sample(cv2.imread(str(folder / row["path"])), int(row["faces_max"])) for row in rows]


def count_found(find: Find, sample: Sample, longest: int | None, gray: bool) -> tuple[int, int]:
    """Return how many of a photo's faces are found, and how many boxes exceed their number.

    With `longest` the photo is shrunk so that its longer side has that many pixels.
    """
    image = sample.image
    if longest is not None and longest < max(image.shape):
        scale = longest / max(image.shape)
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    boxes = len(find(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if gray else image))
    return min(boxes, sample.faces), max(boxes - sample.faces, 0)


def main() -> None:
    data = Path(sys.argv[1])
    canvases = read_keypoints(data / "keypoints", quiet=True).part("val").images
    canvases = canvases[np.random.default_rng(0).permutation(len(canvases))]
    photos = samples(data / "samples")
    labelled = sum(photo.faces for photo in photos)
    for name, find in face_finders().items():
        cells = []
        for face in (20, 28, 40):
            side, pictures = mosaics(canvases, face)
            boxes = [find(picture) for picture in pictures]
            found, count = sum(hits(each, side) for each in boxes), ROWS * COLUMNS * len(pictures)
            cells.append(f"{face} px: {found / count:6.1%} found, {sum(map(len, boxes)) - found:3} others")
        print(f"{name:<20}", *cells, sep="   ", flush=True)
        for gray in (False, True):
            sizes = []
            for longest in (None, 480, 320, 240):
                found, others = np.sum([count_found(find, photo, longest, gray) for photo in photos], axis=0)
                sizes.append(f"{longest or 'as is'}: {found} of {labelled}, {others} others")
            print(f"  photos in {'gray' if gray else 'colour'}", *sizes, sep="   ", flush=True)


if __name__ == "__main__":
    main()
