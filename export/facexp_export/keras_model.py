"""Loading, checking and running a trained Keras model for export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from facexp_export.errors import ExportError, first_line
from facexp_export.tasks import INPUT_NAME, Outputs, Task


def load_model(path: Path, task: Task) -> Any:
    """Load RUN/model.keras as a float32 model whose output is a dict by name, ready for export.

    Raises ExportError if the file cannot be loaded, or if the model does not have the input and outputs of `task`.
    """
    # registers the networks' custom layers, without which the file cannot be loaded
    import facexp_train.networks.resnet  # noqa: F401

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"export needs Keras on TensorFlow, but it runs on {keras.backend.backend()}; set KERAS_BACKEND=tensorflow"
        )
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(f"{path}: not a Keras model that can be loaded here ({first_line(error)})") from error
    names = list(model.output) if isinstance(model.output, dict) else list(model.output_names)
    tensors = list(model.output.values()) if isinstance(model.output, dict) else list(model.outputs)
    wanted = (None, task.size, task.size, 1)
    if len(model.inputs) != 1 or model.inputs[0].name != INPUT_NAME or model.inputs[0].dtype != "uint8":
        found = ", ".join(f"{tensor.name} {tensor.dtype}" for tensor in model.inputs)
        raise ExportError(f"{path}: the input must be {INPUT_NAME!r}, uint8; found {found}")
    if tuple(model.inputs[0].shape) != wanted:
        raise ExportError(f"{path}: the input shape is {tuple(model.inputs[0].shape)}, expected {wanted}")
    for name, tensor in zip(names, tensors, strict=True):
        if name not in task.outputs or tuple(tensor.shape) != (None, *task.shape):
            raise ExportError(
                f"{path}: output {name!r} of shape {tuple(tensor.shape)} is not of {task.name}; expected "
                f"{' or '.join(task.outputs)} of shape {(None, *task.shape)}"
            )
    mixed = [layer.name for layer in model.layers if layer.compute_dtype != "float32"]
    # the first layer of a float32 model may keep the input's dtype
    mixed = [name for name in mixed if not isinstance(model.get_layer(name), keras.layers.InputLayer)]
    if mixed:
        raise ExportError(f"{path}: layer {mixed[0]!r} does not compute in float32; save a model rebuilt in float32")
    named = keras.Model(model.inputs, dict(zip(names, tensors, strict=True)))
    # a model that was just loaded cannot be exported before it has been called once
    named([np.zeros((1, *wanted[1:]), np.uint8)])
    return named


def predict(model: Any, crops: NDArray[np.uint8]) -> Outputs:
    """Run the Keras model on uint8 crops (N, size, size, 1); return float32 outputs by name."""
    return {
        name: np.asarray(value, np.float32) for name, value in model.predict(crops, batch_size=64, verbose=0).items()
    }
