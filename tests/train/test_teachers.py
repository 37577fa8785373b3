"""A network learns from teachers that the same command trains first."""

import json
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

from facexp_train import run
from facexp_train.augmentation.alignment import Shown, shown
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
    """FER2013's format: faces are bright bars, lying where they are happy and standing where they are sad.

    Each has spots of its own: without, bars that lie elsewhere are one picture.
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
    # guards: teachers trained first and loaded; the label itself counts nothing here
    out = tmp_path / "run"
    run.start(config(bars_csv, teachers=[teacher()], teacher_share=1.0), out, quiet=True)
    taught, first = (json.loads((path / "summary.json").read_text()) for path in (out, out / "teacher1"))
    assert first["validation"]["val_accuracy"] > 0.9
    assert taught["validation"]["val_accuracy"] > 0.9
    assert first["parameters"] > taught["parameters"]
    # each run shows what it saw and said, the teacher's too
    for path in (out, out / "teacher1"):
        assert (path / "index.html").read_text().count("<img") == len(list(path.glob("*.png")))
        assert (path / "samples.png").is_file()


@pytest.mark.slow
def test_a_run_stopped_while_it_taught_goes_on_and_an_ended_teacher_stays(bars_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    whole = config(bars_csv, epochs=1, teachers=[teacher(epochs=1), teacher(epochs=2, seed=1)])
    run.start(whole, out, quiet=True)
    # as if it had been stopped in the second teacher's last epoch
    ended = (out / "teacher1" / "model.keras").stat().st_mtime_ns
    for name in ("model.keras", "checkpoint.npz", "best.weights.npz", "teacher2/model.keras"):
        (out / name).unlink()
    run.start(whole, out, resume=True, quiet=True)
    assert (out / "teacher1" / "model.keras").stat().st_mtime_ns == ended
    assert (out / "teacher2" / "model.keras").is_file()
    assert (out / "model.keras").is_file()
    # or while it wrote the page, its last file
    (out / "teacher2" / "index.html").unlink()
    run.start(whole, out, resume=True, quiet=True)
    assert (out / "teacher2" / "index.html").is_file()


@pytest.mark.slow
def test_a_teacher_of_two_networks_is_trained_once(bars_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = teacher(epochs=1)
    run.start(config(bars_csv, epochs=1, teachers=[first, teacher(epochs=2, teachers=[first])]), out, quiet=True)
    assert sorted(str(path.parent.relative_to(out)) for path in out.rglob("model.keras")) == [
        ".",
        "teacher1",
        "teacher2",
    ]

    # one that differs in anything is another
    again = tmp_path / "again"
    other = teacher(epochs=1, seed=1)
    run.start(config(bars_csv, epochs=1, teachers=[first, teacher(epochs=2, teachers=[other])]), again, quiet=True)
    assert (again / "teacher2" / "teacher1" / "model.keras").is_file()


def test_teachers_that_are_taught_see_the_unlabelled_faces_too(bars_csv: Path) -> None:
    # --set unlabelled reaches the top of a configuration alone
    taught = teacher(teachers=[teacher()])
    whole = config(bars_csv, unlabelled="faces", teachers=[taught, taught | {"partial_share": 0.0}, teacher()])
    assert [whole.teacher(number).unlabelled for number in range(3)] == ["faces", "faces", None]
    # none are read where none are drawn
    few = config(bars_csv, unlabelled="nowhere", partial_share=0.0, teachers=[teacher()])
    assert len(shown(np.zeros((2, 48, 48), np.uint8), {}, few, quiet=True).images) == 2


@pytest.mark.slow
def test_teachers_are_asked_once_and_what_they_said_is_kept(bars_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    whole = config(bars_csv, teachers=[teacher()], teacher_share=1.0, teacher_views=2)
    run.start(whole, out, quiet=True)
    assert json.loads((out / "summary.json").read_text())["validation"]["val_accuracy"] > 0.9
    with np.load(out / "taught.npz") as taught:
        assert taught["fer2013"].shape == (128, 7)
        assert taught["fer2013"].sum(axis=1) == pytest.approx(np.ones(128), abs=1e-5)
    asked = (out / "taught.npz").stat().st_mtime_ns
    # as if it had been stopped before its end; what is trained already is not trained again
    (out / "model.keras").unlink()
    run.start(whole, out, resume=True, quiet=True)
    assert (out / "model.keras").is_file()
    assert (out / "taught.npz").stat().st_mtime_ns == asked


def test_views_are_cut_both_ways_and_their_mean_is_kept() -> None:
    # guards: views that all lie alike, or of the wrong faces
    images = np.zeros((3, 48, 48), np.uint8)
    images[:, :, 24:] = np.array([50, 100, 150])[:, None, None]
    mirrored = np.tile([[-1.0, 0, 47], [0, 1, 0]], (3, 1, 1))
    asked: list[np.ndarray] = []

    def teach(crops: np.ndarray) -> dict[str, np.ndarray]:
        asked.append(crops)
        return {"fer2013": crops[:, 24, [4, 43], 0].astype(np.float32)}

    said = teaching.over_views(teach, Shown(images, 48, {}, mirrored), views=4, seed=0, quiet=True)["fer2013"]
    assert len(asked) == 4
    # each view shows one dark and one bright half, on whichever side
    assert said.sum(axis=1) == pytest.approx([50, 100, 150])
    assert len({crops[0].tobytes() for crops in asked}) == 4


def test_votes_speak_beside_the_teachers(bars_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # guards: votes that weigh on the other labelling, on faces without labels, or tell of another face
    table = pd.read_csv(bars_csv)
    data = tmp_path / "fer2013.csv"
    table.to_csv(data, index=False)
    ballots = np.zeros((len(table), len(VOTES)))
    # the voters call the sad ones neutral, and a happy one in four too
    happy = (table.emotion == 3) & (np.arange(len(table)) % 8 > 1)
    ballots[:, VOTES.index("neutral")] = np.where(happy, 0, 10)
    ballots[:, VOTES.index("happiness")] = np.where(happy, 10, 0)
    pd.DataFrame(ballots, columns=VOTES).assign(Usage=table.Usage).to_csv(tmp_path / VOTES_NAME, index=False)
    # two faces more, without a label
    monkeypatch.setattr("facexp_train.emotion.shown", lambda images, targets, *_: with_others(images, targets, 2))

    job = EmotionJob(read_emotion(data, quiet=True), config(data, votes_share=0.25))
    job.batches.taught = {head: np.full((130, 7), 1 / 7, np.float32) for head in ("fer2013", "ferplus")}
    _, targets = job.batches.batch(np.arange(130), np.random.default_rng(0))
    part, labels = job.faces.part("train"), job.batches.faces.targets
    sure = part.votes[:, VOTES.index("happiness")] > 0
    often = (part.labels[~sure] == 4).mean()
    assert 0.7 < often < 0.9
    # who is called happy was always labelled so, who is called neutral was sad so often
    mean = 0.4 * labels["fer2013"][:128] + 0.6 / 7
    assert targets["fer2013"][:128][sure][:, 3] == pytest.approx(0.75 * mean[sure][:, 3] + 0.25, abs=0.01)
    assert targets["fer2013"][:128][~sure][:, 4] == pytest.approx(0.75 * mean[~sure][:, 4] + 0.25 * often, abs=0.01)
    assert targets["fer2013"][128:] == pytest.approx(np.full((2, 7), 1 / 7))
    assert targets["ferplus"][:128] == pytest.approx(0.4 * labels["ferplus"][:128] + 0.6 / 7)
    with pytest.raises(DataError, match=r"votes_share: .* the 64 training faces .* not of two labels; set it to 0"):
        teaching.told_by_votes(part.votes, np.where(part.labels == 3, 3, -1), 7)


def with_others(images: np.ndarray, targets: dict[str, np.ndarray], count: int) -> Shown:
    more = np.concatenate([images, images[:count]])
    return Shown(more, 48, {head: np.pad(values, ((0, count), (0, 0))) for head, values in targets.items()})


@pytest.mark.slow
def test_a_network_grows_out_of_its_teacher_and_says_the_same(bars_csv: Path, tmp_path: Path) -> None:
    # guards: new channels that are heard at once, weights put beside their place
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

    # a run begins where its teacher ended: one epoch at a rate of nothing changes no answer
    out = tmp_path / "run"
    wide = SMALL | {"stem": 12, "stages": [16]}
    still = {"epochs": 1, "learning_rate": 1e-9, "grow": True, "network": wide}
    run.start(config(bars_csv, teachers=[teacher()], **still), out, quiet=True)
    scores = [json.loads((path / "summary.json").read_text())["validation"] for path in (out, out / "teacher1")]
    assert scores[0]["val_accuracy"] == pytest.approx(scores[1]["val_accuracy"], abs=0.1)


def test_a_network_keeps_what_is_loud_in_a_wider_one() -> None:
    # guards: channels taken from another place than those that listen to them, a stream that loses different ones
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
                # of what is added, a part alone would keep others
                values[:, rng.permutation(channels)[: channels // 2 if "block2" in layer.name else 0]] = 0
            layer.gamma.assign(values[0])
            layer.beta.assign(values[1])
    faces = rng.integers(0, 256, (4, 48, 48, 1), dtype=np.uint8)
    expected = large.predict(faces, verbose=0)
    inherit(large, small, faces)
    for head, logits in small.predict(faces, verbose=0).items():
        assert logits == pytest.approx(expected[head], abs=1e-4)


@pytest.mark.slow
def test_a_mirrored_network_starts_with_the_partners_that_are_there(bars_csv: Path, tmp_path: Path) -> None:
    # guards: partners that are not, a layer put in another order than those that listen to it
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    # a network whose channels have partners, in disorder; of each layer, in which order it hears and answers
    plain = emotion_network(size=49, stem=6, stages=(8,), blocks=2)
    pixel, stem, first, second, stage = (rng.permutation(channels) for channels in (1, 6, 8, 8, 8))
    orders = {"stem": (pixel, stem), "stage1_block1_shortcut": (stem, stage)}
    orders |= {"stage1_block1_a": (stem, first), "stage1_block1_b": (first, stage)}
    orders |= {"stage1_block2_a": (stage, second), "stage1_block2_b": (second, stage)}
    for name, (heard, said) in orders.items():
        layer = plain.get_layer(f"{name}_conv")
        (kernel,) = layer.get_weights()
        kernel = kernel + kernel[:, ::-1, ::-1, ::-1]
        layer.set_weights([kernel[:, :, np.argsort(heard)][..., np.argsort(said)]])
    faces = rng.integers(0, 256, (8, 49, 49, 1), dtype=np.uint8)
    mirrored = emotion_network(size=48, stem=6, stages=(8,), blocks=2, mirrored=True)
    inherit(plain, mirrored, faces)
    for name in orders.keys() - {"stem"}:
        # nothing was lost in the mean with the partner
        (before,), (after,) = (model.get_layer(f"{name}_conv").get_weights() for model in (plain, mirrored))
        assert np.sort(after, axis=None) == pytest.approx(np.sort(before, axis=None), abs=1e-6)
    with pytest.raises(DataError, match="starts from one of its widths; stem_conv has another"):
        inherit(plain, emotion_network(stem=4, stages=(8,), blocks=2, mirrored=True), faces)
    with pytest.raises(DataError, match="stem_conv has kernels of another size"):
        inherit(mirrored, emotion_network(stem=6, stages=(8,), blocks=2), faces)

    # a run that begins so gives a face and its mirror image the same answer
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
def test_other_widths_are_refused_where_places_would_move(narrower: dict[str, object], message: str) -> None:
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
def test_wrong_teachers_are_told_at_once(bars_csv: Path, changes: dict[str, object], message: str) -> None:
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
