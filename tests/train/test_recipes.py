"""The configurations shipped with facexp: found by name, valid, and each builds the network that it describes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from facexp.labels import FIVE
from facexp_train.config import TrainConfig
from facexp_train.errors import DataError
from facexp_train.fitting.fit import _optimizer
from facexp_train.fitting.losses import squared_error
from facexp_train.networks.builders import build_network
from facexp_train.run import configure, recipes

NOTEBOOKS = ["emotion-cnn", "emotion-resnet", "keypoints-cnn", "keypoints-resnet", "keypoints-resnet-turned"]


def test_shipped_configurations_are_found_by_name(tmp_path: Path) -> None:
    """Guards --config: a name, a file, and the message that lists the names."""
    assert recipes("keypoints") + recipes("emotion") == [
        *("keypoints", NOTEBOOKS[2], "keypoints-fast", *NOTEBOOKS[3:]),
        *("emotion", *NOTEBOOKS[:1], "emotion-large", "emotion-mirrored"),
        *("emotion-pruned", "emotion-refined", NOTEBOOKS[1], "emotion-wide"),
    ]
    assert configure("emotion", "data").network["stages"] == [40, 80, 144]
    (tmp_path / "own.toml").write_text("epochs = 3\n")
    assert configure("emotion", "data", name=str(tmp_path / "own.toml")).epochs == 3
    with pytest.raises(
        DataError, match=r"keypoints-cnn: no such file, .*; choose from emotion, emotion-cnn, emotion-large, "
    ):
        configure("emotion", "data", name="keypoints-cnn")


def test_a_teacher_may_name_a_configuration(tmp_path: Path) -> None:
    """Guards what a run's config.json keeps: complete configurations, not names whose meaning may change later."""
    wide, small = configure("emotion", "data", name="emotion-wide"), configure("emotion", "data")
    assert wide.teacher(1) == wide.teacher(0).teacher(0) == dataclasses.replace(small, partial_share=0.0)
    assert wide.teacher(0).network == wide.network
    pruned = configure("emotion", "data", name="emotion-pruned")
    assert pruned.network["stages"] == wide.network["stages"]
    assert (pruned.teacher(0), pruned.teacher(1)) == (configure("emotion", "data", name="emotion-large"), wide)
    assert pruned.teacher(0).network == pruned.teacher(0).teacher(0).network
    mirrored = configure("emotion", "data", name="emotion-mirrored")
    assert mirrored.network == pruned.network | {"mirrored": True}
    assert [mirrored.teacher(number) for number in range(3)] == [pruned, wide, pruned.teacher(0)]
    refined = configure("emotion", "data", name="emotion-refined")
    assert refined.network == mirrored.network
    assert [refined.teacher(number) for number in range(4)] == [mirrored, pruned, wide, pruned.teacher(0)]
    fast = configure("keypoints", "data", name="keypoints-fast")
    assert fast.teacher(0) == configure("keypoints", "data")
    (tmp_path / "own.toml").write_text('[[teachers]]\nconfig = "emotion"\nepochs = 3\n')
    own = configure("emotion", "data", name=str(tmp_path / "own.toml"))
    assert own.teacher(0) == dataclasses.replace(small, epochs=3)
    (tmp_path / "own.toml").write_text(f'[[teachers]]\nconfig = "{tmp_path / "own.toml"}"\n')
    with pytest.raises(DataError, match="own cannot be among its own teachers"):
        configure("emotion", "data", name=str(tmp_path / "own.toml"))


def test_a_configuration_may_extend_another_one(tmp_path: Path) -> None:
    """Guards against settings that get lost between a configuration and one that is based on it."""
    own = tmp_path / "own.toml"
    base = configure("emotion", "data", name="emotion-wide")

    own.write_text('config = "emotion-wide"\nepochs = 3\n[network]\nstem = 16\n[augmentation]\nflip = 0\n')
    assert configure("emotion", "data", name=str(own), changes=["network.blocks=1"]) == dataclasses.replace(
        base,
        epochs=3,
        network=base.network | {"stem": 16, "blocks": 1},
        augmentation=dataclasses.replace(base.augmentation, flip=0),
    )
    own.write_text(
        'config = "emotion-wide"\n[[teachers]]\nconfig = "emotion-large"\nteachers = []\nseed = 9\ngrow = false\n'
    )
    teacher = configure("emotion", "data", name=str(own)).teacher(0)
    large = configure("emotion", "data", name="emotion-large")
    assert teacher == dataclasses.replace(large, teachers=[], seed=9, grow=False)

    other = tmp_path / "other.toml"
    own.write_text(f'config = "{other.as_posix()}"\n')
    other.write_text(f'config = "{own.as_posix()}"\n')
    with pytest.raises(DataError, match=r"own\.toml: config: own cannot be based on itself"):
        configure("emotion", "data", name=str(own))
    other.write_text(f'[[teachers]]\nconfig = "{own.as_posix()}"\n')
    with pytest.raises(DataError, match=r"own\.toml: teachers: own cannot be among its own teachers"):
        configure("emotion", "data", name=str(own))
    own.write_text('config = "missing"\n')
    with pytest.raises(DataError, match="missing: no such file, and no configuration of that name"):
        configure("emotion", "data", name=str(own))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebooks_configuration_matches_the_notebook(name: str) -> None:
    """Guards the notebooks' training: plain Adam at a constant rate, loss and classes; and outputs for the export."""
    task = "emotion" if name.startswith("emotion") else "keypoints"
    config = configure(task, "data", name=name, changes=["network.dense=[8]"])
    optimizer = _optimizer(config, steps=10)
    assert type(optimizer) is keras.optimizers.Adam
    assert not optimizer.use_ema
    rates = [float(optimizer._learning_rate(step)) for step in (0, 7, 900)]
    assert rates == pytest.approx([1e-3] * 3)
    crops = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 1), dtype=np.uint8)
    if task == "emotion":
        assert tuple(config.classes) == FIVE
        crops = crops[:, :48, :48]
        network = build_network(task, config.network, heads=("fer2013",), classes=len(config.classes))
        assert keras.ops.shape(network(crops)["fer2013"]) == (2, 5)
    else:
        assert config.loss == "mse"
        network = build_network(task, config.network, size=96)
        assert network.output_names == ["keypoints"]
        assert keras.ops.shape(network(crops)) == (2, 15, 2)
    kinds = {type(layer) for layer in network.layers}
    assert (keras.layers.Add in kinds) == ("resnet" in name)


def test_the_mean_squared_error_is_over_labelled_coordinates() -> None:
    """Guards against unlabelled points, or the weights of the other loss, that change this loss."""
    target = np.zeros((2, 15, 3), np.float32)
    target[0, :3, 2], target[1, 0, 2] = 0.1, 7
    prediction = np.full((2, 15, 2), 50, np.float32)
    prediction[0, :3] = 3
    prediction[1, 0] = (1, 0)
    assert float(squared_error(target, prediction)) == pytest.approx((6 * 9 + 1) / 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["network.kind=vgg"], "network.kind must be one of facexp, resnet, cnn, got 'vgg'"),
        (["network.stagez=[8]"], "kind 'facexp' cannot be built from .*stagez"),
        (["network.kind=[1]"], r"network.kind must be one of facexp, resnet, cnn, got \[1\]"),
        (["network.stages=[]"], r"kind 'facexp' cannot be built from .*'stages': \[\]"),
        (["network.stages=ab"], "kind 'facexp' cannot be built from .*'stages': 'ab'"),
        (["network.stem=-1"], "kind 'facexp' cannot be built from .*'stem': -1"),
    ],
)
def test_a_network_that_cannot_be_built_is_named(changes: list[str], message: str) -> None:
    """Guards the message about a wrong table `network`."""
    config = configure("keypoints", "data", changes=changes)
    with pytest.raises(DataError, match=message):
        build_network("keypoints", config.network, size=96)


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        ("keypoints", {"classes": ["a", "b"]}, "classes: only the emotion task has them"),
        ("emotion", {"classes": ["a"]}, "classes must be two or more"),
        ("emotion", {"loss": "mse"}, "loss: the emotion task always uses cross-entropy"),
        ("keypoints", {"schedule": "steps"}, "schedule must be one of cosine, constant, got 'steps'"),
    ],
)
def test_settings_that_do_not_fit_the_task_are_refused(task: str, values: dict[str, object], message: str) -> None:
    """Guards against settings that would have no effect."""
    with pytest.raises(DataError, match=message):
        TrainConfig.from_dict({"task": task, "data": "data", **values}, "own.toml")
