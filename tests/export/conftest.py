"""A small network for each task, trained on drawn data and exported once for all tests of this folder."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tensorflow", reason="export needs the export extra")

import keras

from facexp.bundle import load_models
from facexp.geometry import KEYPOINTS, Square, square_matrix, transform, warp
from facexp.session import Session
from facexp_export import bundle_writer, verify
from facexp_export.bundle_writer import Exported, export_run
from facexp_export.steps import Job
from facexp_train.networks.resnet import emotion_network, keypoint_network

FACE = np.array(
    [
        *([66, 38], [30, 38], [58, 38], [73, 38], [38, 38], [23, 38], [56, 30], [79, 30], [40, 30], [17, 30]),
        *([48, 58], [62, 74], [34, 74], [48, 71], [48, 80]),
    ],
    np.float32,
)
"""A made-up face of 15 points in a 96 px crop."""

TRAIN, VAL = 640, 512


@dataclass(frozen=True, slots=True)
class Bundle:
    """An exported bundle and the runs it came from."""

    directory: Path
    runs: dict[str, Path]
    recipe: Path
    exported: dict[str, Exported]
    first_manifest: dict[str, Any]
    """The manifest after the first of the two exports."""


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for runs and data; the readers' cache is there too."""
    directory = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        yield directory


@pytest.fixture(scope="session")
def emotion_run(workspace: Path) -> Path:
    """An emotion network that distinguishes seven patterns."""
    rng = np.random.default_rng(1)
    count = TRAIN + VAL
    labels = np.arange(count) % 7
    images = np.stack([draw_pattern(int(label), rng) for label in labels])
    data = workspace / "emotions"
    data.mkdir()
    lines = ["emotion,pixels,Usage"]
    for index, (label, image) in enumerate(zip(labels, images, strict=True)):
        usage = "Training" if index < TRAIN else "PublicTest"
        lines.append(f"{label},{' '.join(map(str, image.ravel()))},{usage}")
    (data / "fer2013.csv").write_text("\n".join(lines) + "\n")
    network = emotion_network(stem=8, stages=(8, 12, 16), blocks=1)
    targets = keras.utils.to_categorical(labels, 7)[:TRAIN]
    loss = {"fer2013": keras.losses.CategoricalCrossentropy(from_logits=True)}
    train(
        network,
        images[:TRAIN, ..., None],
        dict.fromkeys(network.output, targets),
        loss | {"ferplus": loss["fer2013"]},
        4,
    )
    template = (FACE / 2).tolist()
    return write_run(
        workspace / "e1", "emotion", data, network, {"template": template, "heads": ["fer2013", "ferplus"]}
    )


@pytest.fixture(scope="session")
def keypoint_run(workspace: Path) -> Path:
    """A keypoint network that finds fifteen blobs."""
    rng = np.random.default_rng(2)
    count = TRAIN + VAL
    data = workspace / "points"
    (data / "images").mkdir(parents=True)
    columns = [f"{name}_{axis}" for name in KEYPOINTS for axis in "xy"]
    lines = [",".join(["file", "crop_x", "crop_y", "crop_side", "group", "split", *columns])]
    crops, points = [], []
    for index in range(count):
        image, marks = draw_points(rng)
        cv2.imwrite(str(data / "images" / f"{index}.png"), image)
        split = "train" if index < TRAIN else "val"
        numbers = ",".join(f"{value:.2f}" for value in marks.ravel())
        lines.append(f"{index}.png,12,12,96,{index},{split},{numbers}")
        # the network is trained on the squares themselves; the export uses its own framing
        matrix = square_matrix(Square(59.5, 59.5, 96), 96)
        crops.append(warp(image, matrix, 96))
        points.append(transform(marks, matrix))
    (data / "labels.csv").write_text("\n".join(lines) + "\n")
    network = keypoint_network(stem=8, stages=(8, 12, 16), blocks=1, head=12)
    train(network, np.stack(crops)[:TRAIN, ..., None], np.stack(points)[:TRAIN], "mean_absolute_error", 5)
    measured = {"framing": {"scale": 1.1, "dx": 0.0, "dy": 0.05}, "mean_shape": FACE.tolist()}
    return write_run(workspace / "k1", "keypoints", data, network, measured)


@pytest.fixture(scope="session")
def recipe(workspace: Path) -> Path:
    """A recipe with margins that networks can keep after a few epochs on a few hundred drawings."""
    path = workspace / "small.toml"
    path.write_text("[tolerances]\nrounded_mean_spread = 0.1\n[margins]\naccuracy_points = 3.0\nrmse_px = 0.2\n")
    return path


@pytest.fixture(scope="session")
def bundle(workspace: Path, emotion_run: Path, keypoint_run: Path, recipe: Path) -> Bundle:
    """Both runs exported into one directory, keypoints first."""
    directory = workspace / "bundle"
    runs = {"keypoints": keypoint_run, "emotion": emotion_run}
    keypoints = export_run(keypoint_run, directory, recipe=recipe)
    first = json.loads((directory / "manifest.json").read_text())
    emotion = export_run(emotion_run, directory, recipe=recipe)
    return Bundle(directory, runs, recipe, {"keypoints": keypoints, "emotion": emotion}, first)


@pytest.fixture
def replayed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Steps that copy the files of the shared bundle instead of converting; the list records the steps that ran."""
    done: list[str] = []

    def replay(job: Job) -> dict[str, Any]:
        done.append(job.step)
        if job.step == "reference":
            with np.load(bundle.directory / "reference.npz", allow_pickle=False) as stored:
                names = [name for name in stored.files if name.startswith(f"{job.task}_")]
                outputs = {name.removeprefix(f"{job.task}_"): stored[name] for name in names}
            np.savez(job.out, **{name: rows for name, rows in outputs.items() if name != "crops"})
        elif job.step == "savedmodel":
            shutil.copytree(bundle.directory / job.task, job.out)
        elif job.step == "answers":
            _replay_answers(bundle.directory, job)
        else:
            shutil.copyfile(bundle.directory / f"{job.task}.{job.step}", job.out)
        return {"int8_convolutions": 1, "float32_convolutions": 1} if job.step == "int8.onnx" else {}

    for module in (bundle_writer, verify):
        monkeypatch.setattr(module, "run_step", replay)
    return done


def _replay_answers(directory: Path, job: Job) -> None:
    """Answer with float32.onnx instead of the SavedModel: the same numbers without TensorFlow."""
    (spec,) = (model for model in load_models(directory) if model.name == job.task)
    session = Session((directory / f"{job.task}.float32.onnx").read_bytes(), spec, "float32.onnx")
    with np.load(job.crops, allow_pickle=False) as crops:
        np.savez(job.out, **session.run(crops["crops"]))


def train(network: Any, crops: Any, targets: Any, loss: Any, epochs: int) -> None:
    """Train a few epochs with Adam; batch normalisation's averages follow fast enough to be useful after them."""
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.6
    keras.utils.set_random_seed(3)
    network.compile(keras.optimizers.Adam(5e-3), loss=loss, jit_compile=False)
    network.fit(crops, targets, batch_size=32, epochs=epochs, verbose=0)


def write_run(directory: Path, task: str, data: Path, network: Any, preprocessing: dict[str, Any]) -> Path:
    """Write a run directory as training and measuring do."""
    directory.mkdir()
    figure = {"split": "test", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    files = {
        "config.json": {"task": task, "data": str(data), "seed": 0, "epochs": 4},
        "summary.json": {"rows": TRAIN, "command": f"facexp train {task} {data} --out {directory}"},
        "evaluation.json": {"figures": [figure]},
        "preprocessing.json": preprocessing,
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    network.save(directory / "model.keras")
    return directory


def draw_pattern(label: int, rng: np.random.Generator) -> np.ndarray:
    """48x48 gray: a bright bar at the label's angle on a random background."""
    ground = cv2.resize(rng.uniform(10, 170, (16, 16)), (48, 48), interpolation=cv2.INTER_LINEAR)
    angle = np.pi * label / 7 + rng.normal(0, 0.05)
    reach = 20 * np.array([np.cos(angle), np.sin(angle)])
    centre = 23.5 + rng.normal(0, 2, 2)
    start, end = (tuple(map(int, centre + sign * reach)) for sign in (-1, 1))
    cv2.line(ground, start, end, rng.uniform(180, 250), 4)
    return np.clip(ground + rng.normal(0, 4, ground.shape), 0, 255).astype(np.uint8)


def draw_points(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """120x120 gray with a mark at each of 15 points, and the points."""
    angle, scale = rng.normal(0, 0.12), rng.uniform(0.85, 1.1)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = ((FACE - 48) @ turn.T + 60 + rng.normal(0, 3, 2) + rng.normal(0, 1, FACE.shape)).astype(np.float32)
    image = cv2.resize(rng.uniform(90, 150, (5, 5)).astype(np.float32), (120, 120), interpolation=cv2.INTER_LINEAR)
    for index, (x, y) in enumerate(points):
        shade = 240 if index % 2 else 10
        cv2.circle(image, (round(float(x)), round(float(y))), 2 + index % 3, shade, -1)
    noisy = image + rng.normal(0, 3, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), points


@pytest.fixture
def clients(
    bundle: Bundle, astronaut: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """The two clients of docs/serving.md, REST and gRPC, in a folder with the models and the photo that they name."""
    docs = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    rest, stub = re.findall(r"<!-- serving -->\n```python\n(.*?)```", docs, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(bundle.directory)
    cv2.imwrite("photo.jpg", astronaut)
    return rest, stub
