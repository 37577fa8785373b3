"""The networks: inputs and outputs, the soft-argmax, and losses that ignore what is not labelled."""

from pathlib import Path

import keras
import numpy as np
import pytest

from facexp_train.fitting import losses
from facexp_train.networks import resnet as networks

SMALL = {"stem": 4, "stages": (4, 8), "blocks": 1}


def test_keypoint_network_takes_bytes_and_gives_points() -> None:
    model = networks.keypoint_network(96, **SMALL, head=8)
    assert model.input_shape == (None, 96, 96, 1)
    assert model.inputs[0].dtype == "uint8"
    points = model.predict(np.zeros((2, 96, 96, 1), np.uint8), verbose=0)
    assert points.shape == (2, 15, 2)
    assert points.dtype == np.float32


def test_a_stem_may_have_stride_4_and_stages_may_differ_in_depth() -> None:
    model = networks.keypoint_network(96, stem=4, stages=(4, 8, 8), blocks=(1, 2, 1), head=8, stem_stride=4)
    shapes = {layer.name: layer.output.shape[1:] for layer in model.layers}
    assert shapes["stem_relu"] == shapes["stage1_block1_out"] == (24, 24, 4)
    assert shapes["stage2_block2_out"] == (12, 12, 8)
    assert shapes["heatmaps"] == (24, 24, 15)
    assert "stage1_block2_out" not in shapes
    for wrong, message in (({"stem_stride": 3}, "stem_stride must be 2 or 4, got 3"), ({"blocks": (1, 2)}, r"zip\(\)")):
        with pytest.raises(ValueError, match=message):
            networks.keypoint_network(96, **{"stages": (4, 8, 8), "stem": 4} | wrong)


def test_soft_argmax_finds_the_peak_in_crop_pixels() -> None:
    logits = np.full((1, 24, 24, 2), -50, np.float32)
    logits[0, 5, 20, 0] = 50
    logits[0, 23, 0, 1] = 50
    points = np.asarray(networks.SoftArgmax(96)(logits))[0]
    # cell 5 covers pixels 20 to 23, whose centre is 21.5
    assert points == pytest.approx(np.array([[81.5, 21.5], [1.5, 93.5]]), abs=1e-3)


def test_emotion_network_has_a_head_for_each_labelling() -> None:
    model = networks.emotion_network(**SMALL)
    logits = model.predict(np.zeros((3, 48, 48, 1), np.uint8), verbose=0)
    assert {name: value.shape for name, value in logits.items()} == {"fer2013": (3, 7), "ferplus": (3, 7)}
    assert list(networks.emotion_network(**SMALL, heads=("fer2013",)).output) == ["fer2013"]


def test_the_outermost_pixels_do_not_affect_the_emotion() -> None:
    model = networks.emotion_network(**SMALL)
    face = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 1), dtype=np.uint8)
    framed = face.copy()
    framed[:, :2] = framed[:, -2:] = framed[:, :, :2] = framed[:, :, -2:] = 0
    one, other = model.predict(face, verbose=0), model.predict(framed, verbose=0)
    assert one["fer2013"] == pytest.approx(other["fer2013"])


@pytest.mark.slow
def test_a_mirrored_network_gives_a_face_and_its_mirror_image_the_same_logits() -> None:
    # guards against wrong channel pairs, strides that skip other columns of a mirror image, and diverging weights
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 256, (16, 48, 48, 1), dtype=np.uint8)
    targets = {head: np.eye(7, dtype=np.float32)[rng.integers(0, 7, 16)] for head in ("fer2013", "ferplus")}
    plain, mirrored = (networks.emotion_network(**SMALL | {"blocks": 2}, mirrored=on) for on in (False, True))
    for model in (plain, mirrored):
        model.compile(keras.optimizers.AdamW(0.01, use_ema=True, ema_momentum=0.8), losses.soft_cross_entropy)
        model.fit(faces, targets, batch_size=4, epochs=3, verbose=0)
        networks.mirror_symmetric(model)
    for head in targets:
        one, other = (mirrored.predict(seen, verbose=0)[head] for seen in (faces, faces[:, :, ::-1]))
        assert np.ptp(one, axis=0).min() > 0.01
        assert one == pytest.approx(other, abs=1e-4)
        one, other = (plain.predict(seen, verbose=0)[head] for seen in (faces, faces[:, :, ::-1]))
        assert np.abs(one - other).max() > 0.01
    with pytest.raises(ValueError, match=r"mirrored: stage2_block1_\w+ halves a map of 22 columns; a mirrored"):
        networks.emotion_network(**SMALL, size=50, mirrored=True)


def test_mixed_precision_keeps_heads_in_float32_and_weights_transfer() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = networks.keypoint_network(96, **SMALL, head=8)
    finally:
        keras.config.set_dtype_policy("float32")
    assert mixed.get_layer("expectation").compute_dtype == "float32"
    plain = networks.keypoint_network(96, **SMALL, head=8)
    plain.set_weights(mixed.get_weights())
    crops = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 1), dtype=np.uint8)
    assert plain.predict(crops, verbose=0) == pytest.approx(mixed.predict(crops, verbose=0), abs=1.0)


def test_unlabelled_points_add_no_loss() -> None:
    target = np.zeros((1, 15, 3), np.float32)
    target[0, 0] = (10, 10, 1 / 40)
    prediction = np.full((1, 15, 2), 50, np.float32)
    prediction[0, 0] = (13, 14)
    assert float(losses.weighted_distance(target, prediction)) == pytest.approx(5 / 40, rel=1e-4)
    assert float(losses.weighted_distance(np.zeros((1, 15, 3), np.float32), prediction)) == 0


def test_a_face_without_a_label_adds_no_loss() -> None:
    target = np.array([[1, 0], [0, 0]], np.float32)
    logits = np.array([[0, 0], [9, -9]], np.float32)
    assert float(losses.soft_cross_entropy(target, logits)) == pytest.approx(np.log(2) / 2)


def test_temperatures_divide_the_logits_inside_the_graph(tmp_path: Path) -> None:
    model = networks.emotion_network(**SMALL)
    path = tmp_path / "model.keras"
    networks.with_temperatures(model, {"fer2013": 2.0, "ferplus": 0.5}).save(path)
    scaled = keras.saving.load_model(path, compile=False)
    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), dtype=np.uint8)
    before, after = (m.predict(faces, verbose=0) for m in (model, scaled))
    assert after["fer2013"] == pytest.approx(before["fer2013"] / 2, abs=1e-5)
    assert after["ferplus"] == pytest.approx(before["ferplus"] * 2, abs=1e-5)


def test_the_grouped_loss_uses_only_the_shares_of_its_classes() -> None:
    target = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]], np.float32)
    logits = np.array([[2.0, 1.0, 9.0], [3.0, -2.0, 0.0]], np.float32)
    added = losses.grouped_cross_entropy([0, 1], 2.0)(target, logits) - losses.soft_cross_entropy(target, logits)
    # from the first face alone: the second has no share in the two classes
    log_shares = np.log(np.exp([2.0, 1.0]) / np.exp([2.0, 1.0]).sum())
    assert float(added) == pytest.approx(-2.0 * (0.5 * log_shares[0] + 0.25 * log_shares[1]) / 2, rel=1e-5)
