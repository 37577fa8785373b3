"""How much the raw points of a filmed face tremble: python benchmarks/steadiness.py CLIP [--bundle DIR] ...

Trembling is what a moving head does not explain. Where a point moves evenly, its place is the mean of its places one
frame before and after; the root mean square of what differs from that, over the square root of 1.5, is the standard
deviation per coordinate of independent errors. It is given in % of the inter-ocular distance, over all points
of the stillest stretch of the clip: the frames that differ least from their neighbours, whatever the points say.

Heads are never quite still, and what they do within three frames is in these figures. With --noise SD the first frame
of the stretch is filmed 25 times instead, with Gaussian noise of that many gray levels: a face that is really still.

Without smoothing: the points are those of `Analyzer.analyze`, each frame on its own. Give several bundles to compare
them on the same frames.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import facexp
from facexp.geometry import interocular

STRETCH = 25


def frames(path: Path, most: int) -> list[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(path))
    found = []
    while len(found) < most and (read := capture.read())[0]:
        found.append(read[1])
    return found


def stillest(images: list[NDArray[np.uint8]], where: NDArray[np.bool_]) -> int:
    """Where the stretch begins that differs least from frame to frame, among those with a face in every frame."""
    changes = [float(cv2.absdiff(a, b).mean()) for a, b in itertools.pairwise(images)]
    starts = [i for i in range(len(images) - STRETCH + 1) if where[i : i + STRETCH].all()]
    if not starts:
        raise SystemExit(f"no {STRETCH} frames in a row have a face")
    return min(starts, key=lambda i: sum(changes[i : i + STRETCH - 1]))


def noisy(image: NDArray[np.uint8], sd: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    return np.clip(np.rint(image + rng.normal(0, sd, image.shape)), 0, 255).astype(np.uint8)


def trembling(points: NDArray[np.float32]) -> float:
    """Standard deviation per coordinate of independent errors, over the inter-ocular distance; points (T, 15, 2)."""
    rest = points[1:-1] - (points[:-2] + points[2:]) / 2
    return float(np.sqrt((rest**2).mean() / 1.5) / interocular(points).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--bundle", action="append", type=Path, help="another bundle than the shipped one; repeatable")
    parser.add_argument("--noise", type=float, help="film one frame with this much noise, in gray levels")
    parser.add_argument("--precision", choices=("int8", "float32"))
    parser.add_argument("--frames", type=int, default=300, help="frames of a clip that are looked at (300)")
    asked = parser.parse_args()
    for clip in asked.clips:
        images = frames(clip, asked.frames)
        for bundle in asked.bundle or [None]:
            analyzer = facexp.Analyzer("cpu", bundle=bundle, precision=asked.precision, max_faces=1)
            faces = [analyzer.analyze(image) for image in images]
            start = stillest(images, np.array([bool(found) for found in faces]))
            if asked.noise is not None:
                rng = np.random.default_rng(0)
                still = [noisy(images[start], asked.noise, rng) for _ in range(STRETCH)]
                faces[start : start + STRETCH] = [analyzer.analyze(image) for image in still]
            points = np.stack([faces[i][0].keypoints for i in range(start, start + STRETCH)])
            boxes = np.array([faces[i][0].box for i in range(start, start + STRETCH)])
            print(
                f"{clip.name:<24} frames {start}-{start + STRETCH - 1}  "
                f"{100 * trembling(points):.3f}% of the inter-ocular distance "
                f"(box centre {np.abs(np.diff(boxes, 2, axis=0)).mean():.2f} px)  {bundle or 'shipped'}"
            )


if __name__ == "__main__":
    main()
