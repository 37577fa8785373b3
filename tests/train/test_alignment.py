"""Emotion crops framed as in the dataset and as by the runtime, and faces without a label."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import drawn
import facexp
from facexp.geometry import KEYPOINTS, compose, square_matrix, to_gray, transform, warp
from facexp_cli.main import cli
from facexp_train.augmentation import alignment
from facexp_train.augmentation.alignment import TrainingFaces, aligned_crops, training_faces
from facexp_train.config import Augmentation, TrainConfig
from facexp_train.errors import DataError
from facexp_train.fitting.batches import EmotionBatches

OFF = Augmentation(flip=0, rotation=0, scale=0, shift=0, brightness=0, contrast=0, erasing=0)
TURN = np.array([[0.97, -0.24, 6.5], [0.24, 0.97, -5.0]])
"""A rotation by 14 degrees about the centre of a 48 px crop."""


def config(**changes: object) -> TrainConfig:
    return TrainConfig(task="emotion", data="", batch_size=8, augmentation=OFF, **changes)  # type: ignore[arg-type]


def targets(count: int) -> dict[str, np.ndarray]:
    return {"own": np.eye(7, dtype=np.float32)[np.arange(count) % 7]}


@pytest.fixture(scope="module")
def analyzer() -> facexp.Analyzer:
    return facexp.Analyzer("cpu", 1)


def rotated_crop(analyzer: facexp.Analyzer, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A 48 px crop of a rotated face, and the (2, 3) matrix that cut it."""
    (face,) = analyzer.analyze(image)
    x, y, w, h = face.box
    matrix = compose(TURN, square_matrix(facexp.geometry.Square(x + w / 2, y + h / 2, 1.2 * h), 48))
    return warp(to_gray(image), matrix, 48), matrix


def test_aligned_training_crops_match_the_runtimes(analyzer: facexp.Analyzer, astronaut: np.ndarray) -> None:
    crop, matrix = rotated_crop(analyzer, astronaut)
    faces = training_faces(np.stack([crop] * 3), targets(3), config(aligned=1.0), quiet=True)
    own, aligned = (faces.cuts(np.array([1]), np.array([as_runtime]))[0] for as_runtime in (False, True))
    assert own == pytest.approx(np.eye(2, 3))
    (face,) = analyzer.analyze(astronaut)
    eyes, expected = face.keypoints[:2], analyzer.bundle.emotion.template[:2]
    assert transform(eyes, compose(aligned, matrix)) == pytest.approx(expected, abs=1.5)
    assert np.abs(transform(eyes, matrix) - expected).max() > 3
    assert np.array_equal(aligned_crops(crop[None], quiet=True)[0], warp(crop, aligned, 48))


def test_another_bundle_aligns_by_its_own_template(
    analyzer: facexp.Analyzer, astronaut: np.ndarray, tmp_path: Path
) -> None:
    # guards against scoring a bundle on crops that the shipped bundle aligned
    shutil.copytree(analyzer.bundle.path, tmp_path / "own")
    manifest = tmp_path / "own" / "manifest.json"
    content = json.loads(manifest.read_text())
    preprocessing = content["models"]["emotion"]["preprocessing"]
    preprocessing["template"] = [[x + 5, y] for x, y in preprocessing["template"]]
    manifest.write_text(json.dumps(content))
    crops = rotated_crop(analyzer, astronaut)[0][None]
    shipped, own = aligned_crops(crops, quiet=True)[0], aligned_crops(crops, quiet=True, bundle=tmp_path / "own")[0]
    assert np.abs(own[:, 15:35].astype(float) - shipped[:, 10:30]).mean() < 1
    with pytest.raises(DataError, match=r"keypoint network of .*nowhere"):
        aligned_crops(crops, quiet=True, bundle=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "points"), [("int8.onnx", "int8.onnx"), ("float32.onnx", "float32.onnx"), ("float16.onnx", "float32.onnx")]
)
def test_a_model_file_is_scored_on_crops_aligned_in_its_own_precision(
    own_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, points: str
) -> None:
    """Guards "as facexp crops faces": on a CPU facexp runs the keypoint network in int8 too, not in float32."""
    manifest = json.loads((own_bundle / "manifest.json").read_text())
    files = manifest["models"]["emotion"]["files"]
    # the keypoint network has no float16 file
    files["float16.onnx"] = files["float32.onnx"] | {"file": "emotion.float16.onnx"}
    shutil.copy(own_bundle / "emotion.float32.onnx", own_bundle / "emotion.float16.onnx")
    (own_bundle / "manifest.json").write_text(json.dumps(manifest))
    read: list[str] = []
    read_model = alignment.read_model
    monkeypatch.setattr(alignment, "read_model", lambda *arguments: read.append(arguments[2]) or read_model(*arguments))
    drawn.write_fer2013(tmp_path / "fer2013.csv", 20, 5)
    result = CliRunner().invoke(
        cli, ["evaluate", str(own_bundle / f"emotion.{file}"), str(tmp_path / "fer2013.csv"), "-q"]
    )
    assert (result.exit_code, read) == (0, [points]), result.stderr
    assert "aligned, as facexp crops faces" in result.stdout


def test_unlabelled_faces_are_drawn_and_keep_their_surroundings(
    analyzer: facexp.Analyzer, astronaut: np.ndarray, tmp_path: Path
) -> None:
    (face,) = analyzer.analyze(astronaut)
    x, y, w, h = face.box
    matrix = square_matrix(facexp.geometry.Square(x + w / 2, y + h / 2, 1.6 * h), 96)
    pixels = " ".join(map(str, warp(to_gray(astronaut), matrix, 96).ravel()))
    row = dict(
        zip(
            [f"{name}_{axis}" for name in KEYPOINTS for axis in "xy"],
            transform(face.keypoints, matrix).ravel(),
            strict=True,
        )
    )
    path = tmp_path / "training.csv"
    pd.DataFrame([row | {"Image": pixels}] * 9).to_csv(path, index=False)

    settings = config(aligned=0.5, unlabelled=str(path), teachers=[{}], partial_share=0.5)
    labelled = np.stack([rotated_crop(analyzer, astronaut)[0]] * 6)
    faces = training_faces(labelled, targets(6), settings, quiet=True)
    count = len(faces.images) - 6
    assert 0 < count <= 9
    assert not faces.targets["own"][6:].any()
    batches = EmotionBatches(faces, settings)
    order = batches.order(np.random.default_rng(0))
    assert sorted(order[order < 6]) == list(range(6))
    assert len(order[order >= 6]) == round(count / 2)
    # cropped as by the runtime; the margin around the crop shows the photo, not the crop's border repeated
    cut = faces.cuts(np.array([6]), np.array([True]))
    assert np.array_equal(cut, faces.cuts(np.array([6]), np.array([False])))
    canvas = faces.images[6]
    crop = warp(canvas, cut[0], 48)
    assert np.corrcoef(crop.ravel(), aligned_crops(crop[None], quiet=True)[0].ravel())[0, 1] > 0.9
    assert canvas[:12, 30].std() > 1
    assert not np.array_equal(canvas[0, 12:60], crop[0])
    # a labelled crop lies in the middle of its canvas
    own, aligned = (faces.cuts(np.array([0]), np.array([as_runtime]))[0] for as_runtime in (False, True))
    assert np.array_equal(warp(faces.images[0], own, 48), labelled[0])
    assert (
        np.abs(warp(faces.images[0], aligned, 48) - aligned_crops(labelled[:1], quiet=True)[0].astype(float)).max() <= 1
    )


def test_a_share_of_the_faces_is_shown_aligned(tmp_path: Path) -> None:
    # guards the probability, and that it is drawn for each face
    shift = np.tile([[1.0, 0, 9], [0, 1, 0]], (200, 1, 1))
    images = np.tile(np.arange(48, dtype=np.uint8), (200, 48, 1))
    faces = TrainingFaces(images, 48, targets(200), shift)
    crops, _ = EmotionBatches(faces, config(aligned=0.3)).batch(np.arange(200), np.random.default_rng(0))
    moved = np.asarray(crops)[:, 24, 24, 0] == 24 - 9
    assert 0.2 < moved.mean() < 0.4
    assert np.array_equal(np.asarray(crops)[~moved][..., 0], images[~moved])
