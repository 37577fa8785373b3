"""Faces found and alarms: by the detector alone, and by the product, which asks the keypoint network as well.

    python benchmarks/second_opinion.py shared/data

On pictures put together from validation crops, with faces of 20, 28 and 40 pixels ("others" are boxes that are no
labelled face; some of them are faces), and on the sample photos without a face.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import facexp
from facexp.detector import Box, Detector
from facexp_train.keypoint_data import CANVAS, KAGGLE_SIZE, read_keypoints

ROWS, COLUMNS = 8, 12
Find = Callable[[NDArray[np.uint8]], list[Box]]


def rivals() -> dict[str, Find]:
    alone = {f"detector alone, {score}": Detector(min_score=score) for score in (0.5, 0.6, 0.7, 0.8)}
    analyzer = facexp.Analyzer("cpu")
    found: dict[str, Find] = {
        name: lambda image, detector=detector: [face.box for face in detector.detect(image)]  # type: ignore[misc]
        for name, detector in alone.items()
    }
    return found | {"facexp": lambda image: [face.box for face in analyzer.analyze(image)]}


def mosaics(canvases: NDArray[np.uint8], face: int) -> tuple[int, list[NDArray[np.uint8]]]:
    """Pictures of ROWS x COLUMNS canvases whose framing squares are `face` pixels, and the side of a canvas in them."""
    side = round(CANVAS * face / KAGGLE_SIZE)
    small = [cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA) for canvas in canvases]
    each = ROWS * COLUMNS
    pictures = [
        np.vstack([np.hstack(small[start + row * COLUMNS : start + (row + 1) * COLUMNS]) for row in range(ROWS)])
        for start in range(0, len(small) - each + 1, each)
    ]
    return side, pictures


def hits(boxes: list[Box], side: int) -> int:
    """How many canvases have a box near their middle."""
    cells = set()
    for x, y, width, height in boxes:
        across, down = (x + width / 2) / side, (y + height / 2) / side
        if max(abs(across % 1 - 0.5), abs(down % 1 - 0.5)) < 0.2:
            cells.add((int(down), int(across)))
    return len(cells)


def main() -> None:
    data = Path(sys.argv[1])
    canvases = read_keypoints(data / "keypoints", quiet=True).part("val").images
    canvases = canvases[np.random.default_rng(0).permutation(len(canvases))]
    empty = [cv2.imread(str(path)) for path in sorted((data / "samples" / "no_face").iterdir())]
    for name, find in rivals().items():
        cells = []
        for face in (20, 28, 40):
            side, pictures = mosaics(canvases, face)
            boxes = [find(picture) for picture in pictures]
            found, count = sum(hits(each, side) for each in boxes), ROWS * COLUMNS * len(pictures)
            cells.append(f"{face} px: {found / count:6.1%} found, {sum(map(len, boxes)) - found:3} others")
        alarms = sum(len(find(picture)) for picture in empty)
        print(f"{name:<20}", *cells, f"{alarms} alarms in {len(empty)} photos", sep="   ", flush=True)


if __name__ == "__main__":
    main()
