"""A network learns from teachers that the same command trains first."""

import json
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

from facexp_train import run
from facexp_train.augmentation.alignment import TrainingFaces, training_faces
from facexp_train.config import TrainConfig
from facexp_train.data.emotion_data import read_emotion
from facexp_train.data.votes import VOTES, VOTES_NAME
from facexp_train.emotion import EmotionJob
from facexp_train.errors import DataError
from facexp_train.fitting import teaching
from facexp_train.networks.builders import build_network
from facexp_train.networks.inheritance import inherit
from facexp_train.networks.resnet import emotion_network

SMALL = {"stem": 4, "stages": [8], "blocks": 1, "dropout": 0.0}
STILL = dict.fromkeys(("flip", "rotation", "scale", "shift", "brightness", "contrast", "erasing"), 0.0)


@pytest.fixture(scope="module")
def bars_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FER2013's format: faces are bright bars, horizontal if they are happy and vertical if they are sad.

    Each has different spots: without them, bars at different positions would count as copies.
    """
    rng = np.random.default_rng(0)
    rows = []
    for number in range(192):
        image = cv2.resize(rng.integers(0, 120, (16, 16)).astype(np.uint8), (48, 48))
        code, at = (3, 4)[number % 2], rng.integers(8, 36)
        if code == 3:
            image[at : at + 4] += 110
        else:
            image[:, at : at + 4] += 110
        rows.append((code, " ".join(map(str, image.ravel())), "PublicTest" if number % 6 < 2 else "Training"))
    path = tmp_path_factory.mktemp("fer") / "fer2013.csv"
    pd.DataFrame(rows, columns=["emotion", "pixels", "Usage"]).to_csv(path, index=False)
    return path


def config(data: Path, **changes: object) -> TrainConfig:
    values = {"epochs": 20, "batch_size": 8, "optimizer": "adamw", "learning_rate": 0.01, "patience": 0, "ema": 0}
    values |= {"dtype": "float32", "network": SMALL, "augmentation": STILL, "task": "emotion", "data": str(data)}
    return TrainConfig.from_dict(values | changes, "test")


def teacher(**changes: object) -> dict[str, object]:
    values = {"epochs": 20, "batch_size": 8, "optimizer": "adamw", "learning_rate": 0.01, "patience": 0, "ema": 0}
    return values | {"dtype": "float32", "network": SMALL | {"stem": 8}, "augmentation": STILL} | changes


@pytest.mark.slow
def test_a_network_learns_what_its_teacher_learnt(bars_csv: Path, tmp_path: Path) -> None:
    # guards that teachers are trained first and loaded; with a teacher_share of 1 the labels do not count
    out = tmp_path / "run"
    run.start(config(bars_csv, teachers=[teacher()], teacher_share=1.0), out, quiet=True)
    taught, first = (json.loads((path / "summary.json").read_text()) for path in (out, out / "teacher1"))
    assert first["validation"]["val_accuracy"] > 0.9
    assert taught["validation"]["val_accuracy"] > 0.9
    assert first["parameters"] > taught["parameters"]
    # each run has a page with its samples and predictions, the teacher's too
    for path in (out, out / "teacher1"):
        assert (path / "index.html").read_text().count("<img") == len(list(path.glob("*.png")))
        assert (path / "samples.png").is_file()


@pytest.mark.slow
def test_a_run_stopped_in_a_teacher_resumes_and_keeps_the_finished_teacher(bars_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    whole = config(bars_csv, epochs=1, teachers=[teacher(epochs=1), teacher(epochs=2, seed=1)])
    run.start(whole, out, quiet=True)
    # as if it had been stopped in the second teacher's last epoch
    finished = (out / "teacher1" / "model.keras").stat().st_mtime_ns
    for name in ("model.keras", "checkpoint.npz", "best.weights.npz", "teacher2/model.keras"):
        (out / name).unlink()
    run.start(whole, out, resume=True, quiet=True)
    assert (out / "teacher1" / "model.keras").stat().st_mtime_ns == finished
    assert (out / "teacher2" / "model.keras").is_file()
    assert (out / "model.keras").is_file()
    # or while it wrote the page, its last file
    (out / "teacher2" / "index.html").unlink()
    run.start(whole, out, resume=True, quiet=True)
    assert (out / "teacher2" / "index.html").is_file()


@pytest.mark.slow
def test_a_teacher_shared_by_two_networks_is_trained_once(bars_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = teacher(epochs=1)
    run.start(config(bars_csv, epochs=1, teachers=[first, teacher(epochs=2, teachers=[first])]), out, quiet=True)
    assert sorted(str(path.parent.relative_to(out)) for path in out.rglob("model.keras")) == [
        ".",
        "teacher1",
        "teacher2",
    ]

    # a teacher that differs in any setting is trained separately
    again = tmp_path / "again"
    other = teacher(epochs=1, seed=1)
    run.start(config(bars_csv, epochs=1, teachers=[first, teacher(epochs=2, teachers=[other])]), again, quiet=True)
    assert (again / "teacher2" / "teacher1" / "model.keras").is_file()


def test_teachers_with_teachers_see_the_unlabelled_faces_too(bars_csv: Path) -> None:
    # --set unlabelled sets only the top level of a configuration
    taught = teacher(teachers=[teacher()])
    whole = config(bars_csv, unlabelled="faces", teachers=[taught, taught | {"partial_share": 0.0}, teacher()])
    assert [whole.teacher(number).unlabelled for number in range(3)] == ["faces", "faces", None]
    # none are read if none are drawn
    without = config(bars_csv, unlabelled="nowhere", partial_share=0.0, teachers=[teacher()])
    assert len(training_faces(np.zeros((2, 48, 48), np.uint8), {}, without, quiet=True).images) == 2


@pytest.mark.slow
def test_teachers_predict_once_and_their_predictions_are_kept(bars_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    whole = config(bars_csv, teachers=[teacher()], teacher_share=1.0, teacher_views=2)
    run.start(whole, out, quiet=True)
    assert json.loads((out / "summary.json").read_text())["validation"]["val_accuracy"] > 0.9
    with np.load(out / "taught.npz") as taught:
        assert taught["fer2013"].shape == (128, 7)
        assert taught["fer2013"].sum(axis=1) == pytest.approx(np.ones(128), abs=1e-5)
    written = (out / "taught.npz").stat().st_mtime_ns
    # as if it had been stopped before its end; the teacher's predictions are not made again
    (out / "model.keras").unlink()
    run.start(whole, out, resume=True, quiet=True)
    assert (out / "model.keras").is_file()
    assert (out / "taught.npz").stat().st_mtime_ns == written


def test_views_alternate_between_both_framings_and_are_averaged() -> None:
    # guards against views that are all alike, or of the wrong faces
    images = np.zeros((3, 48, 48), np.uint8)
    images[:, :, 24:] = np.array([50, 100, 150])[:, None, None]
    mirrored = np.tile([[-1.0, 0, 47], [0, 1, 0]], (3, 1, 1))
    seen: list[np.ndarray] = []

    def teach(crops: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(crops)
        return {"fer2013": crops[:, 24, [4, 43], 0].astype(np.float32)}

    mean = teaching.over_views(teach, TrainingFaces(images, 48, {}, mirrored), views=4, seed=0, quiet=True)["fer2013"]
    assert len(seen) == 4
    # each view shows one dark and one bright half, on whichever side
    assert mean.sum(axis=1) == pytest.approx([50, 100, 150])
    assert len({crops[0].tobytes() for crops in seen}) == 4


def test_votes_are_mixed_into_the_targets(bars_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # guards against votes that change the other labelling, faces without labels, or another face
    table = pd.read_csv(bars_csv)
    data = tmp_path / "fer2013.csv"
    table.to_csv(data, index=False)
    ballots = np.zeros((len(table), len(VOTES)))
    # the voters call all sad faces neutral, and one in four of the happy ones
    happy = (table.emotion == 3) & (np.arange(len(table)) % 8 > 1)
    ballots[:, VOTES.index("neutral")] = np.where(happy, 0, 10)
    ballots[:, VOTES.index("happiness")] = np.where(happy, 10, 0)
    pd.DataFrame(ballots, columns=VOTES).assign(Usage=table.Usage).to_csv(tmp_path / VOTES_NAME, index=False)
    # two more faces, without labels
    monkeypatch.setattr(
        "facexp_train.emotion.training_faces", lambda images, targets, *_: with_unlabelled(images, targets, 2)
    )

    job = EmotionJob(read_emotion(data, quiet=True), config(data, votes_share=0.25))
    job.batches.taught = {head: np.full((130, 7), 1 / 7, np.float32) for head in ("fer2013", "ferplus")}
    _, targets = job.batches.batch(np.arange(130), np.random.default_rng(0))
    part, labels = job.faces.part("train"), job.batches.faces.targets
    voted_happy = part.votes[:, VOTES.index("happiness")] > 0
    sad_share = (part.labels[~voted_happy] == 4).mean()
    assert 0.7 < sad_share < 0.9
    # faces voted happy are all labelled happy; of those voted neutral, `sad_share` are labelled sad
    mean = 0.4 * labels["fer2013"][:128] + 0.6 / 7
    assert targets["fer2013"][:128][voted_happy][:, 3] == pytest.approx(0.75 * mean[voted_happy][:, 3] + 0.25, abs=0.01)
    assert targets["fer2013"][:128][~voted_happy][:, 4] == pytest.approx(
        0.75 * mean[~voted_happy][:, 4] + 0.25 * sad_share, abs=0.01
    )
    assert targets["fer2013"][128:] == pytest.approx(np.full((2, 7), 1 / 7))
    assert targets["ferplus"][:128] == pytest.approx(0.4 * labels["ferplus"][:128] + 0.6 / 7)
    with pytest.raises(
        DataError, match=r"votes_share: .* the 64 training faces .* do not have two different labels; set it to 0"
    ):
        teaching.label_probabilities_from_votes(part.votes, np.where(part.labels == 3, 3, -1), 7)


def with_unlabelled(images: np.ndarray, targets: dict[str, np.ndarray], count: int) -> TrainingFaces:
    more = np.concatenate([images, images[:count]])
    return TrainingFaces(more, 48, {head: np.pad(values, ((0, count), (0, 0))) for head, values in targets.items()})


@pytest.mark.slow
def test_a_network_grown_from_its_teacher_predicts_the_same(bars_csv: Path, tmp_path: Path) -> None:
    # guards against new channels that have an effect at once, and weights in the wrong place
    keras.utils.set_random_seed(0)
    small = emotion_network(stem=4, stages=(8, 12), blocks=2)
    large = emotion_network(stem=6, stages=(16, 20), blocks=2)
    for layer in small.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(keras.random.normal(layer.moving_mean.shape))
            layer.gamma.assign(1 + 0.1 * keras.random.normal(layer.gamma.shape))
    faces = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 1), dtype=np.uint8)
    before = large.predict(faces, verbose=0)["ferplus"]
    expected = small.predict(faces, verbose=0)
    inherit(small, large, faces)
    grown = large.predict(faces, verbose=0)
    for head, logits in expected.items():
        assert grown[head] == pytest.approx(logits, abs=1e-4)
    assert np.abs(before - expected["ferplus"]).max() > 0.01
    with pytest.raises(DataError, match="same layers"):
        inherit(emotion_network(stem=4, stages=(8,)), large, faces)

    # a run starts where its teacher ended: one epoch at a rate near zero changes no prediction
    out = tmp_path / "run"
    wide = SMALL | {"stem": 12, "stages": [16]}
    still = {"epochs": 1, "learning_rate": 1e-9, "grow": True, "network": wide}
    run.start(config(bars_csv, teachers=[teacher()], **still), out, quiet=True)
    scores = [json.loads((path / "summary.json").read_text())["validation"] for path in (out, out / "teacher1")]
    assert scores[0]["val_accuracy"] == pytest.approx(scores[1]["val_accuracy"], abs=0.1)


def test_a_narrower_network_keeps_the_strongest_channels() -> None:
    # guards against layers that keep other channels than their inputs, and blocks of one stage that drop different ones
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    large = emotion_network(stem=6, stages=(16, 20), blocks=2)
    small = emotion_network(stem=4, stages=(8, 24), blocks=2)
    silent = {"stem": rng.permutation(6)[4:], "stage1": rng.permutation(16)[8:]}
    for layer in large.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            channels = layer.gamma.shape[0]
            layer.moving_mean.assign(rng.normal(size=channels))
            values = 1 + rng.uniform(size=(2, channels))
            stage = layer.name.partition("_")[0]
            if "stage1" in layer.name and "_a_" in layer.name:
                values[:, rng.permutation(16)[8:]] = 0
            elif stage in silent:
                values[:, silent[stage]] = 0
                # judged by one summand of the residual alone, other channels would be kept
                values[:, rng.permutation(channels)[: channels // 2 if "block2" in layer.name else 0]] = 0
            layer.gamma.assign(values[0])
            layer.beta.assign(values[1])
    faces = rng.integers(0, 256, (4, 48, 48, 1), dtype=np.uint8)
    expected = large.predict(faces, verbose=0)
    inherit(large, small, faces)
    for head, logits in small.predict(faces, verbose=0).items():
        assert logits == pytest.approx(expected[head], abs=1e-4)


@pytest.mark.slow
def test_a_mirrored_network_inherits_the_channel_pairs_of_its_start(bars_csv: Path, tmp_path: Path) -> None:
    # guards against wrong channel pairs, and a layer ordered differently from those that read it
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    # a network with channel pairs in random order; for each layer, the order of its inputs and outputs
    plain = emotion_network(size=49, stem=6, stages=(8,), blocks=2)
    pixel, stem, first, second, stage = (rng.permutation(channels) for channels in (1, 6, 8, 8, 8))
    orders = {"stem": (pixel, stem), "stage1_block1_shortcut": (stem, stage)}
    orders |= {"stage1_block1_a": (stem, first), "stage1_block1_b": (first, stage)}
    orders |= {"stage1_block2_a": (stage, second), "stage1_block2_b": (second, stage)}
    for name, (inputs, outputs) in orders.items():
        layer = plain.get_layer(f"{name}_conv")
        (kernel,) = layer.get_weights()
        kernel = kernel + kernel[:, ::-1, ::-1, ::-1]
        layer.set_weights([kernel[:, :, np.argsort(inputs)][..., np.argsort(outputs)]])
    faces = rng.integers(0, 256, (8, 49, 49, 1), dtype=np.uint8)
    mirrored = emotion_network(size=48, stem=6, stages=(8,), blocks=2, mirrored=True)
    inherit(plain, mirrored, faces)
    for name in orders.keys() - {"stem"}:
        # averaging with the mirrored partner changed no weight
        (before,), (after,) = (model.get_layer(f"{name}_conv").get_weights() for model in (plain, mirrored))
        assert np.sort(after, axis=None) == pytest.approx(np.sort(before, axis=None), abs=1e-6)
    with pytest.raises(DataError, match="starts from one of its widths; stem_conv has another"):
        inherit(plain, emotion_network(stem=4, stages=(8,), blocks=2, mirrored=True), faces)
    with pytest.raises(DataError, match="stem_conv has kernels of another size"):
        inherit(mirrored, emotion_network(stem=6, stages=(8,), blocks=2), faces)

    # a run that starts this way gives a face and its mirror image the same logits
    out = tmp_path / "run"
    still = {"epochs": 1, "learning_rate": 1e-9, "grow": True, "network": SMALL | {"stem": 8, "mirrored": True}}
    run.start(config(bars_csv, teachers=[teacher(epochs=1)], **still), out, quiet=True)
    model = keras.saving.load_model(out / "model.keras", compile=False)
    images = read_emotion(bars_csv, quiet=True).images[:, ..., None]
    one, other = (model.predict(seen, verbose=0)["fer2013"] for seen in (images, images[:, :, ::-1]))
    assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(
    ("narrower", "message"),
    [
        ({"dense": [4]}, "has 4 channels, the first teacher's 8, and no batch norm to judge by"),
        ({"stages": [4, 4]}, "flat flattens a map"),
        ({"stages": [16, 16]}, "flat flattens a map"),
    ],
)
def test_other_widths_are_refused_where_features_would_move(narrower: dict[str, object], message: str) -> None:
    made = {"heads": ("fer2013",), "classes": 7}
    plain = {"kind": "cnn", "stages": [8, 8], "blocks": 1, "dense": [8]}
    with pytest.raises(DataError, match=message):
        inherit(
            build_network("emotion", plain, **made),
            build_network("emotion", plain | narrower, **made),
            np.zeros((1, 48, 48, 1), np.uint8),
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": [{"epoch": 3}]}, r"teachers\[0\]: epoch is unknown"),
        ({"teacher_share": 1.5}, "teacher_share must be between 0 and 1"),
        ({"grow": True}, "grows from its first teacher"),
        ({"votes_share": 1.2}, "votes_share must be between 0 and 1"),
        ({"grow": True, "teachers": [{}], "start_from": "runs/e1"}, "and no start_from"),
    ],
)
def test_wrong_teacher_settings_are_refused_at_once(bars_csv: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        config(bars_csv, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Training": 3}, "all training faces are happy; at least two classes"),
        ({"PublicTest": 1}, "64 faces of split 'val' are disgust, and no training face is"),
    ],
)
def test_a_class_that_cannot_be_learnt_is_named(
    bars_csv: Path, tmp_path: Path, change: dict[str, int], message: str
) -> None:
    table = pd.read_csv(bars_csv)
    for usage, code in change.items():
        table.loc[table.Usage == usage, "emotion"] = code
    table.to_csv(tmp_path / "fer2013.csv", index=False)
    with pytest.raises(DataError, match=message):
        run.start(config(tmp_path / "fer2013.csv"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
