"""A large JPEG that is decoded at a reduced size gives the faces that it gives in full, in pixels of the photo."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facexp import Analyzer
from facexp.errors import SourceError
from facexp.pipeline import analyze_sources
from facexp.reading import ReadOptions
from facexp.sources import open_sources, photo
from facexp.types import Frame


@pytest.fixture(scope="module")
def analyzer() -> Analyzer:
    return Analyzer("cpu", precision="exact")


def write(path: Path, image: Any, orientation: int) -> None:
    """Write a JPEG with this EXIF orientation."""
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])


def analyse(analyzer: Analyzer, path: Path, reduced: bool) -> tuple[Frame, Any]:
    ((frame, shot),) = analyze_sources(analyzer, open_sources([str(path)]), ReadOptions(reduced=reduced))
    assert frame.error is None
    return frame, shot


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_reduced_photo_gives_the_same_face(
    analyzer: Analyzer, astronaut: Any, tmp_path: Path, orientation: int
) -> None:
    """Guards the scaling back to the photo's pixels, and width and height, also of a rotated photo."""
    large = cv2.resize(astronaut[:420], (4001, 3281), interpolation=cv2.INTER_CUBIC)
    write(
        tmp_path / "a.jpg",
        cv2.rotate(large, cv2.ROTATE_90_COUNTERCLOCKWISE) if orientation == 6 else large,
        orientation,
    )
    (full, shot), (small, part) = (analyse(analyzer, tmp_path / "a.jpg", reduced) for reduced in (False, True))
    assert (part.reduction, part.image.shape) == (2, (1641, 2001, 3))
    assert shot.reduction == 1
    assert (small.width, small.height) == (full.width, full.height) == (4001, 3281)
    (one,), (other,) = full.faces, small.faces
    unit = np.linalg.norm(one.keypoints[0] - one.keypoints[1])
    assert np.abs(np.subtract(one.box, other.box)).max() < 0.02 * unit
    assert np.linalg.norm(one.keypoints - other.keypoints, axis=1).max() < 0.02 * unit
    assert one.emotion.probabilities == pytest.approx(other.emotion.probabilities, abs=0.01)


def test_a_small_face_is_decoded_in_full(analyzer: Analyzer, astronaut: Any, tmp_path: Path) -> None:
    """Guards keypoints and emotions of people at the back: half a photo has a quarter of their pixels."""
    canvas = np.full((2600, 4000, 3), 90, np.uint8)
    canvas[1800:2056, 600:856] = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
    # and one that is large enough in the reduced copy
    canvas[100:1636, 2000:3536] = cv2.resize(astronaut, (1536, 1536), interpolation=cv2.INTER_CUBIC)
    write(tmp_path / "a.jpg", canvas, 1)
    (full, _), (small, shot) = (analyse(analyzer, tmp_path / "a.jpg", reduced) for reduced in (False, True))
    assert shot.reduction == 2
    assert [len(full.faces), len(small.faces)] == [2, 2]
    for one, other in zip(full.faces, small.faces, strict=True):
        unit = np.linalg.norm(one.keypoints[0] - one.keypoints[1])
        assert np.linalg.norm(one.keypoints - other.keypoints, axis=1).max() < 0.02 * unit
        assert one.emotion.probabilities == pytest.approx(other.emotion.probabilities, abs=0.02)
    decoded: list[int] = []
    analyzer.analyze_reduced(shot.image, shot.reduction, lambda n: decoded.append(n) or shot.decode(n))
    assert decoded == [1]


@pytest.mark.parametrize("orientation", [1, 5, 6, 8])
def test_width_and_height_of_a_photo_that_is_nearly_square(tmp_path: Path, orientation: int) -> None:
    """Guards records of rotated photos: half of 4001 and half of 4002 pixels are the same number."""
    write(tmp_path / "a.jpg", np.zeros((4001, 4002, 3), np.uint8), orientation)
    (source,) = open_sources([str(tmp_path / "a.jpg")])
    sizes = [next(source.shots(ReadOptions(reduced=reduced))).size for reduced in (False, True)]
    assert sizes[0] == sizes[1] == ((4002, 4001) if orientation == 1 else (4001, 4002))


@pytest.mark.parametrize("first", [b"", b"Exif\0\0", b"Exif\0\0II*\0" + struct.pack("<IHI", 8, 0, 0)])
def test_a_photo_is_rotated_the_same_way_at_any_size(tmp_path: Path, first: bytes) -> None:
    """Guards edited photos, whose orientation is in a later block of EXIF data than the first."""
    path = tmp_path / "a.jpg"
    write(path, np.zeros((2000, 4000, 3), np.uint8), 6)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(first)) + first + data[2:])
    (source,) = open_sources([str(path)])
    full, half = (next(source.shots(ReadOptions(reduced=reduced))) for reduced in (False, True))
    assert full.size == half.size == (2000, 4000)
    assert half.image.shape == (2000, 1000, 3)


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("orientation", [1, 6])
def test_decoding_in_gray_matches_the_colours(tmp_path: Path, astronaut: Any, reduction: int, orientation: int) -> None:
    """Guards keypoints and emotions of small faces, for which the photo is decoded in gray."""
    write(tmp_path / "a.jpg", astronaut[:400], orientation)
    data = (tmp_path / "a.jpg").read_bytes()
    gray, colour = photo.decode_gray(data, reduction), photo.decode(data, "JPEG", reduction)
    assert gray.shape == colour.shape[:2]
    apart = np.abs(gray.astype(int) - cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY))
    # the difference exceeds rounding only where a channel was clipped at 0 or 255
    assert (apart > 1).mean() < 0.005
    assert apart.max() < 10
    with pytest.raises(SourceError, match="cut short"):
        photo.decode_gray(data[:-100], reduction)


def test_only_large_jpegs_are_reduced(tmp_path: Path, astronaut: Any) -> None:
    """Guards pictures in which the detector would see less, and formats that cannot be decoded at half size."""
    for longest, expected in ((3839, 1), (3840, 2), (7680, 4), (15360, 8)):
        data = cv2.imencode(".jpg", np.zeros((8, longest, 3), np.uint8))[1].tobytes()
        assert photo.reductions(data, 1920) == (expected, longest, 8)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((100, 4000, 3), np.uint8))
    (source,) = open_sources([str(tmp_path / "a.png")])
    (shot,) = source.shots(ReadOptions(reduced=True))
    assert (shot.reduction, shot.size) == (1, (4000, 100))


def test_a_face_too_small_in_the_reduced_copy_is_decoded_in_full(
    analyzer: Analyzer, astronaut: Any, tmp_path: Path
) -> None:
    """Guards the size that counts: that of the face in the copy, not in the photo."""
    canvas = np.full((2600, 4000, 3), 90, np.uint8)
    canvas[1000:1512, 600:1112] = astronaut
    write(tmp_path / "a.jpg", canvas, 1)
    _, shot = analyse(analyzer, tmp_path / "a.jpg", True)
    (face,) = analyzer.detect(shot.image, shot.reduction)
    side = analyzer.bundle.keypoints.framing.square(face.box).side
    assert side < analyzer.bundle.keypoints.size < shot.reduction * side
    decoded: list[int] = []
    analyzer.analyze_reduced(shot.image, shot.reduction, lambda n: decoded.append(n) or shot.decode(n))
    assert decoded == [1]
