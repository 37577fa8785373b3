"""A keypoint network learns from teachers: their predictions for views of a face, and how these change its labels."""

import json
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

from facexp.geometry import KEYPOINTS
from facexp_train import run
from facexp_train.config import TrainConfig
from facexp_train.data.keypoint_data import COORDINATES, KeypointFaces
from facexp_train.errors import DataError
from facexp_train.fitting import teaching
from facexp_train.fitting.batches import KeypointBatches

SMALL = {"stem": 4, "stages": [8], "blocks": 1, "head": 8}
STILL = dict.fromkeys(("flip", "rotation", "scale", "shift", "brightness", "contrast", "erasing"), 0.0)


def settings(**changes: object) -> dict[str, object]:
    values = {"epochs": 1, "batch_size": 8, "patience": 0, "dtype": "float32", "network": SMALL, "augmentation": STILL}
    return values | changes


def config(data: Path | str, **changes: object) -> TrainConfig:
    return TrainConfig.from_dict(settings(**changes) | {"task": "keypoints", "data": str(data)}, "test")


def faces(points: np.ndarray, images: np.ndarray, side: float = 96) -> KeypointFaces:
    count, middle = len(points), (images.shape[1] - 1) / 2
    square = np.tile([middle, middle, side], (count, 1))
    names = np.array([str(row) for row in range(count)])
    parts = {"source": np.full(count, "own"), "group": names, "split": np.full(count, "train"), "names": names}
    return KeypointFaces(images, points.astype(np.float32), square, **parts, upscale=np.full(count, np.nan))


class Blob:
    """A teacher that predicts all 15 points at the centre of a crop's bright blob."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def predict_on_batch(self, crops: np.ndarray) -> np.ndarray:
        self.seen.append(crops)
        weights = np.maximum(crops[..., 0].astype(float) - 20, 0)
        ys, xs = np.mgrid[: crops.shape[1], : crops.shape[2]]
        centre = [(weights * axis).sum(axis=(1, 2)) / weights.sum(axis=(1, 2)) for axis in (xs, ys)]
        return np.tile(np.stack(centre, axis=1)[:, None], (1, len(KEYPOINTS), 1))


def test_predictions_for_views_are_mapped_back_to_the_face() -> None:
    # guards against matrices that are not inverted, views that are all alike or mirrored, and squares that are ignored
    images = np.zeros((3, 176, 176), np.uint8)
    places = [(70, 92), (88, 80), (101, 100)]
    for image, place in zip(images, places, strict=True):
        cv2.circle(image, place, 6, 255, -1, cv2.LINE_AA)
    teacher = Blob()
    predicted = teaching.points_over_views([teacher], faces(np.zeros((3, 15, 2)), images, 80), 96, 4, 0, quiet=True)
    assert predicted.shape == (3, 15, 2)
    assert predicted == pytest.approx(np.tile(np.array(places, float)[:, None], (1, 15, 1)), abs=0.15)
    assert len({crops.tobytes() for crops in teacher.seen}) == 4
    # a blob left of the centre stays there
    assert all((crops[0, :, :48] > 128).sum() > (crops[0, :, 48:] > 128).sum() for crops in teacher.seen)
    # the mean of two teachers
    other = Blob()
    other.predict_on_batch = lambda crops: Blob().predict_on_batch(crops) + 2  # type: ignore[method-assign]
    both = teaching.points_over_views([Blob(), other], faces(np.zeros((3, 15, 2)), images, 96), 96, 4, 0, quiet=True)
    assert (both - predicted).mean() == pytest.approx(1, abs=0.1)


def test_labels_move_towards_the_teachers_and_gaps_are_filled() -> None:
    points = np.random.default_rng(0).uniform(30, 60, (4, 15, 2))
    points[0, 3:] = np.nan
    known = np.isfinite(points).all(axis=2)
    taught = points + np.array([4, -8])
    taught[0, 3:] = (50, 40)
    batches = KeypointBatches(faces(points, np.zeros((4, 96, 96), np.uint8)), 96, config("d", teacher_share=0.25))
    before = batches.batch(np.arange(4), np.random.default_rng(0))[1]
    batches.learn(taught.astype(np.float32))
    after = batches.batch(np.arange(4), np.random.default_rng(0))[1]
    assert (after - before)[known][:, :2] == pytest.approx(np.tile([1, -2], (known.sum(), 1)), abs=1e-3)
    assert (before[0, 3:, 2] == 0).all()
    assert (after[0, :, 2] > 0).all()
    assert after[0, 3:, :2] == pytest.approx(np.tile([50, 40], (12, 1)), abs=1e-3)
    # a filled face still counts as partly labelled when an epoch is drawn
    assert (len(batches.whole), len(batches.partial)) == (3, 1)


@pytest.fixture(scope="module")
def blobs_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kaggle's format: 60 pictures of a blob with all points around it, some of which are not labelled."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        x, y = rng.uniform(35, 60, 2)
        image = np.full((96, 96), 40, np.uint8)
        cv2.circle(image, (round(x), round(y)), 12, 220, -1)
        points = np.array([x, y]) + np.linspace(-10, 10, 30).reshape(15, 2)
        if number % 4 == 0:
            points[5:] = np.nan
        rows.append([*points.ravel(), " ".join(map(str, image.ravel())), ("train", "val")[number % 6 == 1]])
    path = tmp_path_factory.mktemp("points") / "training.csv"
    pd.DataFrame(rows, columns=[*COORDINATES, "Image", "split"]).to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_a_teacher_is_trained_first_and_its_predictions_are_kept(blobs_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    teacher = settings(epochs=2, network=SMALL | {"stem": 8})
    student = {"stem_stride": 4, "stages": [8, 8], "blocks": [1, 2]}
    whole = config(blobs_csv, network=SMALL | student, teachers=[teacher], teacher_views=2, teacher_share=1.0)
    run.start(whole, out, quiet=True)
    taught, first = (json.loads((path / "summary.json").read_text()) for path in (out, out / "teacher1"))
    assert taught["parameters"] != first["parameters"]
    with np.load(out / "taught.npz") as file:
        predicted = file["keypoints"]
    assert predicted.shape == (50, 15, 2)
    # the predictions are the teacher's
    training = run.read_faces(whole, quiet=True).part("train")
    models = [keras.saving.load_model(path / "model.keras", compile=False) for path in (out / "teacher1", out)]
    again, other = (teaching.points_over_views([model], training, 96, 2, whole.seed, quiet=True) for model in models)
    assert predicted == pytest.approx(again, abs=0.01)
    assert np.abs(predicted - other).mean() > 0.1
    written = (out / "taught.npz").stat().st_mtime_ns
    (out / "model.keras").unlink()
    run.start(whole, out, resume=True, quiet=True)
    assert (out / "model.keras").is_file()
    assert (out / "taught.npz").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": [settings()]}, "teacher_views: must be 1 or more: keypoint teachers"),
        ({"teachers": [{"epoch": 3}], "teacher_views": 1}, r"teachers\[0\]: epoch is unknown"),
        ({"teachers": [settings()], "teacher_views": 1, "unlabelled": "d"}, "unlabelled: only the emotion task has it"),
        ({"teachers": [settings()], "teacher_views": 1, "grow": True}, "grow: only the emotion task has it"),
    ],
)
def test_unsupported_settings_of_keypoint_teachers_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        config("data", **changes)
