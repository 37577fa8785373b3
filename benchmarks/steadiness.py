"""Measure the jitter of the raw keypoints in a clip: python benchmarks/steadiness.py CLIP [--bundle DIR] ...

Jitter is the part of a point's movement that the movement of the head does not explain. A point that moves at constant
speed is at the mean of its positions one frame before and one frame after. The root mean square of the differences from
that, over the square root of 1.5, is the standard deviation per coordinate of independent errors. It is given in % of
the inter-ocular distance, over all points of the stillest 25 frames of the clip: those with the least change of pixels
from frame to frame, independently of the points.

A head is never perfectly still, so its acceleration within three frames is part of these figures. With --noise SD the
first of the 25 frames is used 25 times instead, with Gaussian noise of that many gray levels, as a face that does not
move at all.

There is no smoothing: the points are those of `Analyzer.analyze`, from each frame by itself. Give several bundles to
compare them on the same frames.
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


def frames(path: Path, limit: int) -> list[NDArray[np.uint8]]:
    """The first frames of a clip, at most `limit`."""
    capture = cv2.VideoCapture(str(path))
    images = []
    while len(images) < limit and (read := capture.read())[0]:
        images.append(read[1])
    return images


def stillest(images: list[NDArray[np.uint8]], where: NDArray[np.bool_]) -> int:
    """The first frame of the STRETCH frames that change least from frame to frame, of those with a face in each.

    `where` is (T,), True for frames with a face.
    """
    changes = [float(cv2.absdiff(a, b).mean()) for a, b in itertools.pairwise(images)]
    starts = [i for i in range(len(images) - STRETCH + 1) if where[i : i + STRETCH].all()]
    if not starts:
        raise SystemExit(f"no {STRETCH} frames in a row have a face")
    return min(starts, key=lambda i: sum(changes[i : i + STRETCH - 1]))


def noisy(image: NDArray[np.uint8], sd: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    return np.clip(np.rint(image + rng.normal(0, sd, image.shape)), 0, 255).astype(np.uint8)


def jitter(points: NDArray[np.float32]) -> float:
    """The jitter of (T, 15, 2) points: the standard deviation per coordinate over the inter-ocular distance."""
    residual = points[1:-1] - (points[:-2] + points[2:]) / 2
    return float(np.sqrt((residual**2).mean() / 1.5) / interocular(points).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--bundle", action="append", type=Path, help="a bundle instead of the shipped one; repeatable")
    parser.add_argument("--noise", type=float, help="repeat one frame with this much noise, in gray levels")
    parser.add_argument("--precision", choices=("int8", "float32"))
    parser.add_argument("--frames", type=int, default=300, help="number of frames of a clip to analyse (300)")
    options = parser.parse_args()
    for clip in options.clips:
        images = frames(clip, options.frames)
        for bundle in options.bundle or [None]:
            analyzer = facexp.Analyzer("cpu", bundle=bundle, precision=options.precision, max_faces=1)
            faces = [analyzer.analyze(image) for image in images]
            start = stillest(images, np.array([bool(found) for found in faces]))
            if options.noise is not None:
                rng = np.random.default_rng(0)
                still = [noisy(images[start], options.noise, rng) for _ in range(STRETCH)]
                faces[start : start + STRETCH] = [analyzer.analyze(image) for image in still]
            points = np.stack([faces[i][0].keypoints for i in range(start, start + STRETCH)])
            boxes = np.array([faces[i][0].box for i in range(start, start + STRETCH)])
            print(
                f"{clip.name:<24} frames {start}-{start + STRETCH - 1}  "
                f"{100 * jitter(points):.3f}% of the inter-ocular distance "
                f"(box centre {np.abs(np.diff(boxes, 2, axis=0)).mean():.2f} px)  {bundle or 'shipped'}"
            )


if __name__ == "__main__":
    main()
