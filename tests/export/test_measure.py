"""What an export measures on the training faces, compared with values worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tiny_bundle as tiny
from facexp import geometry
from facexp.detector import Detector
from facexp_export.errors import ExportError
from facexp_export.measure import measure_emotion, measure_keypoints
from facexp_train.data.emotion_data import EmotionFaces, EmotionReport
from facexp_train.data.keypoint_data import KeypointFaces


def framed(astronaut: np.ndarray, squares: list[geometry.Square]) -> KeypointFaces:
    """Canvases of 176 px whose middle 96 px show the squares of the portrait, all with the same points."""
    gray = geometry.to_gray(astronaut)
    shift = np.array([[1.0, 0, 40], [0, 1, 40]])
    chains = [geometry.compose(shift, geometry.square_matrix(square, 96)) for square in squares]
    count = len(squares)
    points = np.random.default_rng(1).uniform(60, 115, (15, 2)).astype(np.float32)
    return KeypointFaces(
        images=np.stack([geometry.warp(gray, chain, 176) for chain in chains]),
        points=np.repeat(points[None], count, axis=0),
        squares=np.tile([87.5, 87.5, 96.0], (count, 1)),
        source=np.full(count, "one"),
        group=np.arange(count).astype(str),
        split=np.full(count, "train"),
        names=np.arange(count).astype(str),
        upscale=np.full(count, 1.5),
    )


def test_framing_is_the_square_around_the_detectors_box(astronaut: np.ndarray) -> None:
    (face,) = Detector().detect(astronaut)
    x, y, w, h = face.box
    size = np.sqrt(w * h)
    rng = np.random.default_rng(0)
    squares = [
        geometry.Square(x + w / 2 + rng.normal(0, 4), y + h / 2 - 0.1 * size + rng.normal(0, 2), 1.4 * size * f)
        for f in np.exp(rng.normal(0, 0.05, 60))
    ]
    messages: list[str] = []
    measured = measure_keypoints(framed(astronaut, squares), messages.append)
    framing = measured["framing"]
    assert framing["scale"] == pytest.approx(1.4, abs=0.06)
    assert framing["dy"] == pytest.approx(-0.1, abs=0.04)
    assert framing["dx"] == 0
    assert "of 60 training faces" in messages[0]
    # the runtime puts the same square around the same box
    square = geometry.Framing(**framing).square(face.box)
    assert square.side == pytest.approx(np.median([s.side for s in squares]), rel=0.05)


def test_the_mean_shape_is_its_own_mirror_image(astronaut: np.ndarray) -> None:
    (face,) = Detector().detect(astronaut)
    x, y, w, h = face.box
    measured = measure_keypoints(framed(astronaut, [geometry.Square(x + w / 2, y + h / 2, 1.2 * w)] * 50), print)
    shape = np.array(measured["mean_shape"])
    mirrored = shape[list(geometry.MIRROR)] * (-1, 1) + (95, 0)
    assert shape == pytest.approx(mirrored, abs=0.002)
    assert np.ptp(shape, axis=0).min() > 1


def test_too_few_faces_found_is_an_error(astronaut: np.ndarray) -> None:
    faces = framed(astronaut[300:, 300:], [geometry.Square(60, 60, 80)] * 60)
    with pytest.raises(ExportError, match="finds 0 of 60 training faces; 50 are needed"):
        measure_keypoints(faces, print)


def gray_faces(count: int = 70) -> EmotionFaces:
    return EmotionFaces(
        images=np.full((count, 48, 48), 128, np.uint8),
        labels=np.zeros(count, np.int64),
        votes=None,
        split=np.full(count, "train"),
        rows=np.arange(count),
        copies=np.arange(count).astype(np.str_),
        group=np.arange(count).astype(np.str_),
        names=np.arange(count).astype(np.str_),
        report=EmotionReport(count, 0, 0, 0),
    )


def test_the_template_is_the_keypoint_networks_answer_to_the_training_crops(own_bundle: Path) -> None:
    manifest = json.loads((own_bundle / "manifest.json").read_text())
    del manifest["models"]["emotion"]
    (own_bundle / "manifest.json").write_text(json.dumps(manifest))
    measured = measure_emotion(gray_faces(), ["fer2013"], own_bundle, print)
    # for uniform gray the tiny network returns its mean shape, in a crop of 96 px over 48
    seen = (tiny.MEAN_SHAPE + 0.5) / 2 - 0.5
    symmetric = (seen + seen[list(geometry.MIRROR)] * (-1, 1) + (47, 0)) / 2
    assert np.array(measured["template"]) == pytest.approx(symmetric, abs=0.02)
    assert measured["heads"] == ["fer2013"]


def test_a_template_needs_a_keypoint_network(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="export a keypoint run there first"):
        measure_emotion(gray_faces(), ["fer2013"], tmp_path, print)
