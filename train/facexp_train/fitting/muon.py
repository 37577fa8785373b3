"""Muon for convolutions: Keras' own Muon uses AdamW for every weight that is not a matrix."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class ConvolutionMuon(keras.optimizers.Muon):  # type: ignore[misc]
    """Muon on convolution kernels, each reshaped to a matrix (height * width * inputs, outputs); AdamW on all else.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. The update is scaled as in Liu et
    al., "Muon is Scalable for LLM Training", 2025, so that a learning rate means the same as for AdamW. A convolution
    that computes the network's outputs is not a hidden layer: name it in `exclude_layers`.
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        return len(variable.shape) != 4 or any(name in variable.path for name in self.exclude_layers)

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        self.assign_add(m, ops.add(gradient, m * (self.momentum - 1)))
        step = ops.add(gradient, self.momentum * m) if self.nesterov else m
        matrix = ops.reshape(step, (-1, variable.shape[-1]))
        update = self.lr_adjust(lr * self.zeropower_via_newtonschulz5(matrix, self.ns_steps))
        self.assign_sub(variable, ops.reshape(update, variable.shape))
