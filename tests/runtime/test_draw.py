"""The annotated picture: boxes and points where the faces are, labels inside the picture and off each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from facexp import draw
from facexp.geometry import KEYPOINTS
from facexp.labels import SEVEN
from facexp.types import Emotion, Face, Smoothed


def face(
    box: tuple[float, float, float, float], label: str = "happy", points: NDArray[np.float32] | None = None
) -> Face:
    probabilities = {name: 0.9 if name == label else 0.1 / 6 for name in SEVEN}
    x, y, w, h = box
    if points is None:
        points = np.tile(np.array([x + w / 2, y + h / 2], np.float32), (len(KEYPOINTS), 1))
    return Face(box, 0.9, points, Emotion(label, probabilities))


def near(image: NDArray[np.uint8], label: str) -> NDArray[np.bool_]:
    return np.asarray(np.abs(image.astype(int) - draw.COLOURS[label]).max(axis=-1) < 12)


def plates(monkeypatch: pytest.MonkeyPatch) -> list[draw.Rectangle]:
    """Collect the rectangles of the labels that are drawn from now on."""
    found: list[draw.Rectangle] = []
    real = draw._label

    def label(*arguments: object) -> draw.Rectangle:
        found.append(real(*arguments))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(draw, "_label", label)
    return found


def test_the_given_picture_is_not_changed() -> None:
    """Guards the caller's pixels, and that a picture without a face is returned as it was."""
    image = np.full((400, 500, 3), 90, np.uint8)
    assert np.array_equal(draw.annotate(image, []), image)
    assert not np.array_equal(draw.annotate(image, [face((100, 100, 80, 100))]), image)
    assert (image == 90).all()
    gray = draw.annotate(image[:, :, 0], [])
    assert gray.shape == (400, 500, 3)


def test_box_and_points_lie_where_the_face_is() -> None:
    """Guards against an offset: the box's four edges, and each point within half a pixel of its place."""
    points = np.stack([200 + 7 * np.arange(15), 150 + 9 * np.arange(15)], axis=-1).astype(np.float32)
    drawn = draw.annotate(np.zeros((500, 500, 3), np.uint8), [face((180, 130, 140, 160), "sad", points)])
    colour = near(drawn, "sad")
    # a row and a column without a point or a label
    for line, ends in ((colour[285], (180, 319)), (colour[:, 310], (130, 289))):
        assert (int(np.flatnonzero(line)[0]), int(np.flatnonzero(line)[-1])) == ends
    for x, y in points:
        patch = colour[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4]
        ys, xs = np.nonzero(patch)
        assert np.hypot(ys.mean() - 3, xs.mean() - 3) < 0.5


@pytest.mark.parametrize(
    "size", [(1, 1), (48, 48), (1, 700), (700, 1), (12, 300), (96, 64), (480, 640), (3000, 4000), (30, 9000)]
)
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (-0.2, -0.2, 0.5, 0.5), (0.8, 0.8, 0.5, 0.5), (0.9, 0.0, 0.05, 0.05)])
def test_labels_stay_inside_the_picture(
    size: tuple[int, int], box: tuple[float, float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards labels at every border and at every size, from one pixel to a large photo."""
    height, width = size
    found = plates(monkeypatch)
    scaled = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    drawn = draw.annotate(np.full((height, width, 3), 90, np.uint8), [face(scaled, "surprise")])
    ((left, top, right, bottom),) = found
    assert left >= 0
    assert top >= 0
    assert right <= drawn.shape[1]
    assert bottom <= drawn.shape[0]


@pytest.mark.parametrize("size", [48, 240, 320, 640, 2000, 6000])
def test_labels_can_be_read_at_any_size(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards legibility: at least 13 pixels, 1.2% of the picture, and never a third of it."""
    found = plates(monkeypatch)
    for side in (size / 12, size):
        drawn = draw.annotate(np.zeros((size, size, 3), np.uint8), [face((0, 0, side, side))])
        _, top, _, bottom = found[-1]
        assert bottom - top >= 13
        assert 0.012 <= (bottom - top) / len(drawn) <= 0.15


def test_labels_avoid_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a row of people: neighbours' labels do not cover each other where there is room."""
    found = plates(monkeypatch)
    faces = [face((100 + 60 * i, 200, 50, 60)) for i in range(2)]
    draw.annotate(np.zeros((480, 640, 3), np.uint8), faces)
    for one, two in itertools.combinations(found, 2):
        assert one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]


@pytest.mark.parametrize(
    ("size", "columns", "rows", "least"),
    [((240, 426), 6, 4, 0.5), ((1080, 1920), 20, 11, 0.9), ((2160, 3840), 24, 12, 1.0)],
)
def test_labels_of_a_crowd_cover_no_label_and_no_other_face(
    size: tuple[int, int], columns: int, rows: int, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards crowds: where the labels have no room, they become smaller, instead of a heap that nobody can read."""
    found = plates(monkeypatch)
    cell = size[1] // columns, size[0] // rows
    side = min(cell) // 2
    boxes = [
        (column * cell[0] + 5.0, row * cell[1] + 15.0, side, side) for row in range(rows) for column in range(columns)
    ]
    draw.annotate(np.zeros((*size, 3), np.uint8), [face(box, "surprise") for box in boxes])
    assert sum(place[2] > 0 for place in found) >= len(boxes) * least
    corners = [(int(x), int(y), int(x + w), int(y + h)) for x, y, w, h in boxes]
    for number, one in enumerate(found):
        for two in (*found[:number], *corners[:number], *corners[number + 1 :]):
            assert one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]


def test_each_emotion_has_its_colour_and_a_readable_text() -> None:
    """Guards the colours: all seven, distinct from each other, with text that stands out on each."""
    assert set(draw.COLOURS) == set(SEVEN)
    for one, two in itertools.combinations(draw.COLOURS.values(), 2):
        assert np.abs(np.subtract(one, two)).max() > 60
    for label in SEVEN:
        drawn = draw.annotate(np.full((400, 400, 3), 90, np.uint8), [face((100, 100, 200, 200), label)])
        plate = drawn[76:99, 101:180]
        assert near(plate, label).mean() > 0.3
        luminance = plate.astype(int) @ [0.114, 0.587, 0.299]
        assert luminance.max() - luminance.min() > 100


def test_other_labels_have_colours_too() -> None:
    """Guards custom labels: each has a colour, never that of an emotion next to it, and the same every time."""
    found = draw.colours(["happy", "calm", "tired"])
    assert found["happy"] == draw.COLOURS["happy"]
    assert len(set(found.values())) == 3
    assert len(set(draw.colours([f"label {number}" for number in range(9)]).values())) == len(SEVEN)


def test_small_pictures_are_enlarged_in_place() -> None:
    """Guards 48-pixel face crops: enlarged by a whole factor, with the points still on their pixels."""
    points = np.tile(np.array([12, 30], np.float32), (15, 1))
    drawn = draw.annotate(np.zeros((48, 48, 3), np.uint8), [face((0, 0, 48, 48), "happy", points)])
    assert drawn.shape == (336, 336, 3)
    ys, xs = np.nonzero(near(drawn, "happy")[60:-10, 10:-10])
    # enlarged seven times, pixel 12 has its centre at 12 * 7 + 3
    assert xs.mean() + 10 == pytest.approx(87, abs=0.5)
    assert ys.mean() + 60 == pytest.approx(213, abs=0.5)


def bars(monkeypatch: pytest.MonkeyPatch) -> list[list[draw.Rectangle]]:
    """Collect the rectangles of each face's bars that are drawn from now on."""
    found: list[list[draw.Rectangle]] = []
    real = draw._bars
    monkeypatch.setattr(draw, "_bars", lambda *arguments: found.append(real(*arguments)) or found[-1])
    return found


@pytest.mark.parametrize("size", [(240, 426), (480, 640), (2160, 3840)])
def test_bars_are_as_long_as_their_probabilities(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the bars from 240p to 4k: in the picture, next to the face, each as long as its probability."""
    found = bars(monkeypatch)
    height, width = size
    box = (0.2 * width, 0.2 * height, 0.2 * height, 0.25 * height)
    probabilities = dict.fromkeys(SEVEN, 0.0) | {"happy": 0.75, "sad": 0.25}
    points = np.zeros((15, 2), np.float32)
    drawn = draw.annotate(
        np.zeros((height, width, 3), np.uint8), [Face(box, 0.9, points, Emotion("happy", probabilities))]
    )
    (((left, top, right, bottom),),) = found
    assert left >= box[0] + box[2]
    assert right <= width
    # seven lines of text that can be read when the whole picture is on a screen
    assert (bottom - top) / 7 >= max(14, 0.018 * width)
    panel = drawn[top:bottom, left:right]
    lengths = {label: int(near(panel, label).any(axis=0).sum()) for label in ("happy", "sad", "angry")}
    assert lengths["happy"] == pytest.approx(3 * lengths["sad"], abs=3)
    assert lengths["angry"] == 0


def test_bars_cover_no_face_and_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards faces and labels of a crowd against being covered; bars are left out where there is no room."""
    found, labels = bars(monkeypatch), plates(monkeypatch)
    boxes = [(20.0 + 190 * column, 60.0 + 160 * row, 80.0, 100.0) for row in range(2) for column in range(4)]
    draw.annotate(np.zeros((360, 760, 3), np.uint8), [face(box) for box in boxes])
    places = [place for each in found for place in each]
    assert places
    corners = [(int(x), int(y), int(x + w), int(y + h)) for x, y, w, h in boxes]
    for number, place in enumerate(places):
        for other in [*corners, *labels, *places[:number]]:
            assert place[0] >= other[2] or place[2] <= other[0] or place[1] >= other[3] or place[3] <= other[1]
    found.clear()
    draw.annotate(np.zeros((360, 360, 3), np.uint8), [face((0, 0, 360, 360))])
    assert found == [[]]


def test_smoothed_values_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a flickering picture: label, colour and points are the smoothed ones, with the id in front."""
    texts: list[str] = []
    real = draw._plate
    monkeypatch.setattr(draw, "_plate", lambda text, *more: texts.append(text) or real(text, *more))
    raw = face((180, 130, 140, 160), "angry")
    smoothed = Smoothed(raw.keypoints + 30, face((0, 0, 1, 1), "happy").emotion)
    image = np.zeros((500, 500, 3), np.uint8)
    drawn = draw.annotate(image, [Face(raw.box, 0.9, raw.keypoints, raw.emotion, 7, smoothed)])
    assert set(texts) == {"#7 happy 90%"}
    assert near(drawn[230:250, 270:290], "happy").any()
    assert not near(drawn[:, 180:320], "angry").any()
    draw.annotate(image, [raw])
    assert texts[-1] == "angry 90%"
