"""Drawn faces with known points and expressions, in the formats of Kaggle's files: data without any third-party rights.

Brows, eyes and mouth differ between the seven expressions, so that a small network can tell them apart. YuNet detects
the faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facexp.geometry import KEYPOINTS
from facexp.labels import FIVE, SEVEN

Image = NDArray[np.uint8]
Points = NDArray[np.float32]

_SUPERSAMPLING = 4
"""Faces are drawn this many times as large and averaged down, for smooth edges."""


class Expression(NamedTuple):
    """The shape of an expression. Lengths are in hundredths of the crop's side; up is positive."""

    inner: float
    """How far the inner ends of the brows are raised."""
    outer: float
    """How far the outer ends of the brows are raised."""
    lids: float
    """Half the height of the open eye."""
    corners: float
    """How far the corners of the mouth are raised above its middle."""
    gap: float
    """Height of the gap between the lips."""
    width: float
    """Half the width of the mouth."""
    teeth: bool = False
    wrinkles: bool = False
    """Whether the face has wrinkles beside the nose."""


EXPRESSIONS: dict[str, Expression] = {
    "angry": Expression(inner=-5, outer=4, lids=2.4, corners=-3, gap=0.6, width=11, wrinkles=False),
    "disgust": Expression(inner=-4, outer=-2, lids=1.5, corners=-5, gap=2.5, width=10, teeth=True, wrinkles=True),
    "fear": Expression(inner=5, outer=1, lids=5.2, corners=-2, gap=5, width=14, teeth=True),
    "happy": Expression(inner=1, outer=1, lids=2.6, corners=8, gap=5, width=17, teeth=True),
    "sad": Expression(inner=5, outer=-4, lids=2.2, corners=-7, gap=0.6, width=12),
    "surprise": Expression(inner=6, outer=6, lids=5.2, corners=0, gap=12, width=8),
    "neutral": Expression(inner=0, outer=0, lids=3.3, corners=0, gap=0.6, width=13),
}


def face(expression: str, rng: np.random.Generator, size: int = 96) -> tuple[Image, Points]:
    """Return a gray face (size, size) and its (15, 2) points in pixels, in the order of KEYPOINTS.

    Head, hair, light and background are random, and so is the strength of the expression.
    """
    shape, strength = EXPRESSIONS[expression], rng.uniform(0.75, 1.15)
    full = _SUPERSAMPLING * size
    angle, zoom = np.deg2rad(rng.normal(0, 4)), full / 100 * rng.uniform(0.92, 1.08)
    matrix = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = full / 2 + full * rng.normal(0, 0.015, 2)

    def at(x: float, y: float) -> tuple[int, int]:
        """Pixel of a place in the face, which is given in hundredths from the middle of the face, y upwards."""
        right, down = matrix @ (x, -y) + middle
        return round(float(right)), round(float(down))

    def oval(x: float, y: float, width: float, height: float, shade: float) -> None:
        axes = (max(1, round(width * zoom)), max(1, round(height * zoom)))
        cv2.ellipse(picture, at(x, y), axes, np.rad2deg(angle), 0, 360, shade, -1)

    def line(places: Sequence[tuple[float, float]], shade: float, width: float) -> None:
        drawn = np.array([at(*place) for place in places], np.int32)
        cv2.polylines(picture, [drawn], False, shade, max(1, round(width * zoom)))

    picture = _background(full, rng)
    skin, dark = rng.uniform(120, 215), rng.uniform(15, 50)
    hair, top = rng.uniform(10, 200), rng.uniform(6, 16)
    oval(0, top / 2, 38 + rng.uniform(0, 5), 46 + top / 2, hair)
    oval(0, -60, 15, 25, skin - 25)
    oval(0, -4, 34, 46, skin)
    brow_y, eye_y, nose_y, mouth_y = 25.0, 12 + rng.normal(0, 0.5), -7 + rng.normal(0, 0.8), -26 + rng.normal(0, 0.8)
    inner, outer, corners = (strength * value for value in (shape.inner, shape.outer, shape.corners))
    lids, gap = 3.3 + strength * (shape.lids - 3.3), max(0.5, strength * shape.gap)
    for side in (1, -1):
        oval(side * 17, eye_y, 6.5, lids, 245)
        oval(side * 17, eye_y, min(3.2, lids), min(3.2, lids), dark)
        lid = [(side * (17 + 6.5 * np.cos(t)), eye_y + lids * np.sin(t)) for t in np.linspace(0, np.pi, 9)]
        line(lid, dark, 1.2)
        line(
            [(side * 9, brow_y + inner), (side * 18, brow_y + 2.5 + (inner + outer) / 2), (side * 27, brow_y + outer)],
            dark,
            3,
        )
        line([(side * 5, nose_y + 1), (side * 3, nose_y - 2), (0, nose_y - 1)], skin - 60, 1.5)
        if shape.wrinkles:
            for step in (0, 3, 6):
                line([(side * 3, nose_y + 10 + step), (side * 8, nose_y + 7 + step)], skin - 70, 1.3)
            line([(side * 7, nose_y), (side * 15, mouth_y)], skin - 60, 1.5)
        if expression == "happy":
            line([(side * 9, nose_y - 2), (side * 20, mouth_y + 5)], skin - 45, 1.3)
    across = np.linspace(-1, 1, 13)
    # the corners of the mouth move, and its middle half as far the other way
    bend = mouth_y - corners / 2 + 1.5 * corners * across**2
    open_by = gap / 2 * np.sqrt(np.maximum(1 - across**2, 0))
    upper = list(zip(shape.width * across, bend + open_by, strict=True))
    lower = list(zip(shape.width * across, bend - open_by, strict=True))
    lips = np.array([at(*place) for place in upper + lower[::-1]], np.int32)
    cv2.fillPoly(picture, [lips], 235 if shape.teeth else 25)
    cv2.polylines(picture, [lips], True, max(skin - 90, 20), round(2 * zoom))
    light = np.linspace(*rng.uniform(0.75, 1.2, 2), full, dtype=np.float32)
    picture *= light[None, :] if rng.random() < 0.5 else light[:, None]
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) + rng.normal(0, 3, (size, size))
    # without its own spots, a face would match another one that is moved and stretched: a near copy to the readers
    small += cv2.resize(rng.spawn(1)[0].normal(0, 30, (12, 12)), (size, size))
    places = {
        **{f"{name}_eye_center": (side * 17, eye_y) for name, side in _SIDES},
        **{f"{name}_eye_inner_corner": (side * 10.5, eye_y) for name, side in _SIDES},
        **{f"{name}_eye_outer_corner": (side * 23.5, eye_y) for name, side in _SIDES},
        **{f"{name}_eyebrow_inner_end": (side * 9, brow_y + inner) for name, side in _SIDES},
        **{f"{name}_eyebrow_outer_end": (side * 27, brow_y + outer) for name, side in _SIDES},
        "nose_tip": (0, nose_y),
        **{f"mouth_{name}_corner": (side * shape.width, bend[0]) for name, side in _SIDES},
        "mouth_center_top_lip": (0, bend[6] + open_by[6]),
        "mouth_center_bottom_lip": (0, bend[6] - open_by[6]),
    }
    enlarged = np.array([matrix @ (x, -y) + middle for x, y in (places[name] for name in KEYPOINTS)])
    points = ((enlarged + 0.5) / _SUPERSAMPLING - 0.5).astype(np.float32)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8), points


_SIDES = (("left", 1), ("right", -1))
"""The person's left is on the right of the picture."""


def smooth(count: int, seed: int = 0, size: int = 48) -> Image:
    """Return (count, size, size) gray pictures of large smooth shapes, all different, as photos of faces are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6)).astype(np.uint8)
    return np.array([cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in coarse])


def _background(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a background of large light and dark shapes, without which the readers would find near copies."""
    coarse = rng.uniform(0, 255, (6, 6)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def photo(expression: str, rng: np.random.Generator) -> Image:
    """Return a colour photo (480, 640, 3) BGR uint8 with one drawn face at a random place."""
    gray, _ = face(expression, rng, 256)
    background = cv2.resize(_background(64, rng), (640, 480), interpolation=cv2.INTER_CUBIC)
    left, top = rng.integers(40, 640 - 296), rng.integers(40, 480 - 296)
    background[top : top + 256, left : left + 256] = gray
    return np.clip(background[..., None] * np.array([0.85, 0.95, 1.05]), 0, 255).astype(np.uint8)


def write_training(path: Path, count: int, seed: int = 0) -> None:
    """Write Kaggle's training.csv: 30 coordinates and Image. One face in ten lacks a point, as many of Kaggle's do."""
    rng = np.random.default_rng(seed)
    images, points = zip(*(face(SEVEN[number % 7], rng) for number in range(count)), strict=True)
    table = np.round(np.stack(points).reshape(count, 30), 3).astype(object)
    table[::10, 8:10] = ""
    frame = pd.DataFrame(table, columns=[f"{name}_{axis}" for name in KEYPOINTS for axis in "xy"])
    frame.assign(Image=_texts(images)).to_csv(path, index=False)


def write_fer2013(path: Path, train: int, held: int, seed: int = 1) -> None:
    """Write fer2013.csv: emotion, pixels, Usage, with `held` faces each for PublicTest and PrivateTest."""
    usages = ["Training"] * train + ["PublicTest"] * held + ["PrivateTest"] * held
    rng = np.random.default_rng(seed)
    codes = [number % 7 for number in range(len(usages))]
    images = [face(SEVEN[code], rng, 48)[0] for code in codes]
    pd.DataFrame({"emotion": codes, "pixels": _texts(images), "Usage": usages}).to_csv(path, index=False)


def write_five(path: Path, count: int, seed: int = 2) -> None:
    """Write the five-class emotion.csv: emotion (0 angry, 1 disgust, 2 sad, 3 happy, 4 surprise) and pixels."""
    rng = np.random.default_rng(seed)
    codes = [number % 5 for number in range(count)]
    images = [face(FIVE[code], rng, 48)[0] for code in codes]
    pd.DataFrame({"emotion": codes, "pixels": _texts(images)}).to_csv(path, index=False)


def write_folders(folder: Path, named: dict[str, str], train: int, held: int, seed: int = 3) -> None:
    """Write a folder of pictures per class under train and val; `named` maps a class name to its expression."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", held)):
        for name in named:
            (folder / split / name).mkdir(parents=True)
        for number in range(count):
            name = list(named)[number % len(named)]
            assert cv2.imwrite(str(folder / split / name / f"{number}.png"), face(named[name], rng, 64)[0])


def _texts(images: Sequence[Image]) -> list[str]:
    return [" ".join(map(str, image.ravel().tolist())) for image in images]
