"""Muon on convolutions: which kernels it updates, and which it leaves to AdamW."""

import keras
import numpy as np
import pytest

from facexp_train.fitting.muon import ConvolutionMuon


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(6, 3, name="hidden", use_bias=False)(image)
    x = keras.layers.Conv2D(3, 1, name="heatmaps")(keras.layers.ReLU()(x))
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))


def test_a_hidden_kernel_moves_by_an_orthogonal_step_and_the_last_one_does_not() -> None:
    model = network()
    hidden = model.get_layer("hidden").kernel
    before = keras.ops.convert_to_numpy(hidden)
    optimizer = ConvolutionMuon(0.01, weight_decay=None, adam_weight_decay=None, exclude_layers=["heatmaps"])
    model.compile(optimizer, "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(32, 8, 8, 2)), rng.normal(size=(32, 3)), batch_size=32, verbose=0)
    step = (keras.ops.convert_to_numpy(hidden) - before).reshape(18, 6)
    # five rounds of the iteration bring the singular values near 1, times rate, 0.2 and the root of the longer side
    values = np.linalg.svd(step, compute_uv=False) / (0.01 * 0.2 * np.sqrt(18))
    assert values.min() > 0.5
    assert values.max() < 1.3
    # the last layer is left to AdamW, which keeps a momentum and a velocity
    kernel = optimizer.momentums[[v.path for v in model.trainable_variables].index("heatmaps/kernel")]
    assert np.abs(keras.ops.convert_to_numpy(kernel)).max() > 0
    velocities = [v is not None for v in optimizer.adam_velocities]
    assert velocities == [False, True, True]


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd"])
def test_every_configured_optimizer_is_built(name: str) -> None:
    from facexp_train.config import TrainConfig
    from facexp_train.fitting.fit import _optimizer

    config = TrainConfig(task="keypoints", data="", optimizer=name, learning_rate=0.5, warmup_epochs=0, epochs=1)  # type: ignore[arg-type]
    optimizer = _optimizer(config, 10)
    assert type(optimizer).__name__.lower().endswith(name)
    optimizer.build(network().trainable_variables)
    assert float(optimizer.learning_rate) == pytest.approx(0.5)
