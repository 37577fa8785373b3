"""Conversion to a SavedModel in TensorFlow Serving's layout, NAME/1/, that takes crops or encoded images of crops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from facexp_export.tasks import INPUT_NAME, Outputs, Task

VERSION = "1"
"""Name of the version folder."""


def write_savedmodel(model: Any, task: Task, path: Path) -> None:
    """Write a Keras model to `path`/1, with two signatures whose outputs have the bundle's names.

    serving_default takes "image", uint8 crops (N, size, size, 1). serving_encoded takes "encoded", a string tensor (N,)
    of JPEG or PNG files of face crops, which are converted to gray and resized to the network's size.
    """
    crops = tf.TensorSpec((None, task.size, task.size, 1), tf.uint8, name=INPUT_NAME)
    files = tf.TensorSpec((None,), tf.string, name="encoded")

    @tf.function(input_signature=[crops])  # type: ignore[untyped-decorator]
    def images(image: Any) -> Any:
        return model(image, training=False)

    @tf.function(input_signature=[files])  # type: ignore[untyped-decorator]
    def pictures(encoded: Any) -> Any:
        return model(tf.map_fn(lambda file: _crop(file, task.size), encoded, fn_output_signature=crops.dtype))

    module = tf.Module()
    # only objects that the module tracks are saved
    module.model = model
    signatures = {"serving_default": images, "serving_encoded": pictures}
    tf.saved_model.save(module, str(path / VERSION), signatures=signatures)
    # differs from run to run, and serves no purpose here
    (path / VERSION / "fingerprint.pb").unlink(missing_ok=True)


def answers(path: Path, crops: NDArray[np.uint8]) -> Outputs:
    """Run the signature serving_default of the SavedModel at `path` on uint8 crops; return its outputs by name."""
    serve = tf.saved_model.load(str(path / VERSION)).signatures["serving_default"]
    parts = [serve(**{INPUT_NAME: tf.constant(part)}) for part in np.split(crops, range(64, len(crops), 64))]
    return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}


def _crop(file: Any, size: int) -> Any:
    """Decode the bytes of a JPEG or PNG file to a gray crop, uint8 (size, size, 1)."""
    # to gray from three planes, with the same weights as in the runtime; a PNG of one plane is repeated in all three
    colours = tf.io.decode_image(file, channels=3, expand_animations=False)
    colours.set_shape((None, None, 3))
    gray = tf.image.rgb_to_grayscale(tf.cast(colours, tf.float32))
    small = tf.image.resize(gray, (size, size), antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(small), 0, 255), tf.uint8)
