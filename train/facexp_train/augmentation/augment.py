"""Augmentation of batches: one matrix per face moves its pixels and its points, so that they always stay together.

The random numbers of a face are drawn with numpy, so that a seed gives the same changes under every Keras backend; only
the pixel noise is drawn by `keras.random`, with a seed from numpy. The pixels are moved by `keras.ops`.
"""

from __future__ import annotations

from typing import Any

import cv2
import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from facexp_train.augmentation.framing import Matrices
from facexp_train.config import Augmentation


def warp_batch(canvases: NDArray[np.uint8], matrices: Matrices, size: int) -> Any:
    """Warp uint8 (N, C, C) canvases by (N, 2, 3) canvas-to-crop matrices; return a float tensor (N, size, size, 1).

    Its values are 0 to 255. Bilinear with a replicated border, like `facexp.geometry.warp`. Raises ValueError if the
    canvases are smaller than the crop.
    """
    if canvases.shape[1] < size:
        raise ValueError(f"canvases of {canvases.shape[1]} px are smaller than the {size} px crop")
    linear = np.linalg.inv(matrices[:, :, :2])
    offset = -linear @ matrices[:, :, 2:]
    back = np.concatenate([linear, offset], axis=2).reshape(len(matrices), 6)
    transforms = np.concatenate([back, np.zeros((len(back), 2))], axis=1).astype(np.float32)
    pixels = ops.cast(ops.convert_to_tensor(canvases[..., None]), "float32")
    moved = ops.image.affine_transform(pixels, ops.convert_to_tensor(transforms), "bilinear", "nearest")
    return moved[:, :size, :size, :]


def _column(values: NDArray[np.float64]) -> Any:
    """(N,) values as a float32 tensor (N, 1, 1, 1)."""
    return ops.convert_to_tensor(values.astype(np.float32).reshape(-1, 1, 1, 1))


def change_pixels(pixels: Any, rng: np.random.Generator, augmentation: Augmentation) -> Any:
    """Change brightness, contrast, gamma, blur and noise of a float tensor (N, S, S, 1), 0 to 255, and erase parts.

    Values of the result may lie outside of 0 to 255.
    """
    count, size = pixels.shape[0], pixels.shape[1]
    if augmentation.contrast or augmentation.brightness:
        mean = ops.mean(pixels, axis=(1, 2, 3), keepdims=True)
        factor = _column(np.exp(augmentation.contrast * rng.standard_normal(count)))
        light = _column(255 * augmentation.brightness * rng.standard_normal(count))
        pixels = (pixels - mean) * factor + mean + light
    if augmentation.gamma:
        power = _column(np.exp(augmentation.gamma * rng.standard_normal(count)))
        pixels = 255 * ops.power(ops.clip(pixels / 255, 1e-4, 1.0), power)
    if augmentation.blur:
        smooth = ops.average_pool(pixels, 3, strides=1, padding="same")
        chosen = _column((rng.random(count) < augmentation.blur) * rng.random(count))
        pixels = pixels + (smooth - pixels) * chosen
    if augmentation.noise:
        level = _column(255 * augmentation.noise * rng.random(count))
        pixels = pixels + level * keras.random.normal(ops.shape(pixels), seed=int(rng.integers(2**31)))
    if augmentation.erasing:
        pixels = _erase(pixels, rng, count, size, augmentation.erasing)
    return pixels


def _erase(pixels: Any, rng: np.random.Generator, count: int, size: int, chance: float) -> Any:
    """Fill a random rectangle of a share `chance` of the crops with a random gray."""
    area = rng.uniform(0.02, 0.2, count) * size**2
    aspect = np.exp(rng.uniform(np.log(0.4), np.log(2.5), count))
    width, height = np.sqrt(area * aspect), np.sqrt(area / aspect)
    left, top = rng.random(count) * (size - width), rng.random(count) * (size - height)
    width = np.where(rng.random(count) < chance, width, -1)
    line = np.arange(size)
    inside_x = (line >= left[:, None]) & (line < (left + width)[:, None])
    inside_y = (line >= top[:, None]) & (line < (top + height)[:, None])
    mask = inside_y[:, :, None, None] & inside_x[:, None, :, None]
    fill = _column(rng.uniform(0, 255, count))
    return ops.where(ops.convert_to_tensor(mask), fill, pixels)


def to_uint8(pixels: Any) -> Any:
    """Round and clip pixels to uint8, 0 to 255, which is what a camera gives."""
    return ops.cast(ops.clip(ops.round(pixels), 0, 255), "uint8")


def degrade(crops: Any, rng: np.random.Generator, augmentation: Augmentation) -> Any:
    """Degrade uint8 crops (N, S, S, 1) as small pictures and cameras do: fewer pixels, then JPEG compression.

    Returns a numpy array, or the tensor itself if `augmentation` has neither.
    """
    if not (augmentation.shrink or augmentation.jpeg):
        return crops
    changed = np.array(ops.convert_to_numpy(crops))
    size = changed.shape[1]
    shrink, compress = (rng.random(len(changed)) < chance for chance in (augmentation.shrink, augmentation.jpeg))
    for crop, shrunk, compressed in zip(changed[..., 0], shrink, compress, strict=True):
        if shrunk:
            side = max(1, round(size * rng.uniform(1 / 3, 1)))
            small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
            crop[:] = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
        if compressed:
            encoded = cv2.imencode(".jpg", crop, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 91))))[1]
            crop[:] = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
    return changed
