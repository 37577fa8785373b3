"""What a person looks at: boxes, points, labels and probabilities on a copy of the picture."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from facexp.geometry import Image
from facexp.types import Face

SMALLEST = (48, 320)
"""A picture whose shorter or longer side has fewer pixels is enlarged, to have room for a label."""
LARGEST_GROWN = 4096
"""No picture is enlarged beyond this many pixels a side."""

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]

COLOURS: dict[str, Colour] = {
    "angry": (60, 60, 235),
    "disgust": (70, 170, 60),
    "fear": (200, 80, 160),
    "happy": (40, 210, 250),
    "sad": (230, 130, 40),
    "surprise": (30, 130, 250),
    "neutral": (210, 210, 210),
}
"""BGR of each of the seven emotions."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# pixels of a capital letter at the font's own scale
_CAPITAL = cv2.getTextSize("H", _FONT, 1.0, 1)[0][1]
# fractional bits of the coordinates of a point, so that it stays on its feature in a small face
_SHIFT = 4


def annotate(image: Image, faces: Sequence[Face]) -> Image:
    """A copy of a BGR (H, W, 3) or gray (H, W) uint8 picture with each face's box, points and emotion, BGR (h, w, 3).

    Points and emotion are the smoothed ones where there are any. The probabilities stand as bars beside or below the
    face where they cover no other: all of them, or the three largest where there is less room, or none.
    The copy has the picture's size, or a whole multiple of it where the picture is smaller than SMALLEST. A face
    may lie partly or wholly outside.
    """
    canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image.copy()
    shorter, longer = sorted(canvas.shape[:2])
    wanted = max(-(-SMALLEST[0] // shorter), -(-SMALLEST[1] // longer))
    grow = max(1, min(wanted, LARGEST_GROWN // longer))
    if grow > 1:
        canvas = cv2.resize(canvas, None, fx=grow, fy=grow, interpolation=cv2.INTER_CUBIC)
        longer *= grow
    drawn = np.asarray(canvas, dtype=np.uint8)
    plates: list[Rectangle] = []
    for face in faces:
        _box(drawn, face, grow, longer)
    for face in faces:
        _points(drawn, face, grow)
    # the labels last: a neighbour's box must not run through them
    for face in faces:
        plates.append(_label(drawn, face, grow, longer, plates))
    # the bars only where they are in nobody's way
    taken = plates + [_outside(face, grow) for face in faces]
    for face, plate in zip(faces, plates, strict=True):
        taken += _bars(drawn, face, grow, longer, taken, max(plate[3], _outside(face, grow)[3]))
    return drawn


def colours(labels: Iterable[str]) -> dict[str, Colour]:
    """BGR of each label: an emotion's own; other labels take the colours that are left over, in turn."""
    labels = list(labels)
    others = [label for label in labels if label not in COLOURS]
    free = [colour for label, colour in COLOURS.items() if label not in labels] or list(COLOURS.values())
    taken = dict(zip(others, itertools.cycle(free), strict=False))
    return {label: COLOURS.get(label) or taken[label] for label in labels}


def _colour(face: Face) -> Colour:
    emotion = face.shown.emotion
    return colours(emotion.probabilities)[emotion.label]


def _corners(face: Face, grow: int) -> tuple[int, int, int, int]:
    x, y, w, h = (round(grow * value) for value in face.box)
    return x, y, x + w - 1, y + h - 1


def _outside(face: Face, grow: int) -> Rectangle:
    left, top, right, bottom = _corners(face, grow)
    return left, top, right + 1, bottom + 1


def _letter(face: Face, grow: int, longer: int) -> float:
    """Height of a capital letter: by the face's size, but never too small on a screen that shows the whole picture."""
    return min(max(11.0, 0.013 * longer, 0.1 * grow * face.box[2]), 0.05 * longer)


def _box(canvas: Image, face: Face, grow: int, longer: int) -> None:
    left, top, right, bottom = _corners(face, grow)
    width = max(2, round(longer / 400))
    # drawn inside the box, so that a box at the border of the picture still shows
    inset = width // 2
    start, end = (left + inset, top + inset), (right - inset, bottom - inset)
    cv2.rectangle(canvas, start, end, (0, 0, 0), width + 2, cv2.LINE_AA)
    cv2.rectangle(canvas, start, end, _colour(face), width, cv2.LINE_AA)


def _points(canvas: Image, face: Face, grow: int) -> None:
    side = grow * float(np.sqrt(face.box[2] * face.box[3]))
    radius = max(1.0, side / 90)
    places = (np.asarray(face.shown.keypoints, np.float64) + 0.5) * grow - 0.5
    colour = _colour(face)
    for x, y in np.round(places * 2**_SHIFT).astype(int).tolist():
        if radius >= 1.5:
            cv2.circle(canvas, (x, y), round((radius + 1) * 2**_SHIFT), (0, 0, 0), -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(canvas, (x, y), round(radius * 2**_SHIFT), colour, -1, cv2.LINE_AA, _SHIFT)


def _label(canvas: Image, face: Face, grow: int, longer: int, taken: Sequence[Rectangle]) -> Rectangle:
    emotion = face.shown.emotion
    name = "" if face.id is None else f"#{face.id} "
    text = f"{name}{emotion.label} {100 * emotion.probabilities[emotion.label]:.0f}%"
    left, top, right, bottom = _corners(face, grow)
    height, width = canvas.shape[:2]
    letter = _letter(face, grow, longer)
    plate, pad, thick, base = _plate(text, letter)
    fit = min(width / plate[0], height / plate[1])
    if fit < 1:
        # a little less, because strokes and margins are whole pixels
        letter *= 0.9 * fit
        plate, pad, thick, base = _plate(text, letter)
        if plate[0] > width or plate[1] > height:
            # a strip of a few pixels has no room that anybody could read
            return 0, 0, 0, 0
    x, y = _place(plate, (left, top, right, bottom), (width, height), taken)
    colour = _colour(face)
    cv2.rectangle(canvas, (x, y), (x + plate[0] - 1, y + plate[1] - 1), colour, -1)
    dark = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] < 128
    ink = (255, 255, 255) if dark else (0, 0, 0)
    cv2.putText(canvas, text, (x + pad, y + base), _FONT, letter / _CAPITAL, ink, thick, cv2.LINE_AA)
    return x, y, x + plate[0], y + plate[1]


def _plate(text: str, letter: float) -> tuple[tuple[int, int], int, int, int]:
    """Size of the plate behind a text, its margin, the thickness of a stroke, and how far down the text stands."""
    thick = max(1, round(letter / 9))
    (width, height), under = cv2.getTextSize(text, _FONT, letter / _CAPITAL, thick)
    pad = round(letter / 4)
    return (width + 2 * pad, height + under + 2 * pad), pad, thick, pad + height


def _place(
    plate: tuple[int, int], face: Rectangle, picture: tuple[int, int], taken: Sequence[Rectangle]
) -> tuple[int, int]:
    """The plate's corner: above the face, else below it, else inside; wholly in the picture, off the other plates."""
    left, top, _, bottom = face
    x = min(max(left, 0), max(picture[0] - plate[0], 0))
    lowest = max(picture[1] - plate[1], 0)
    outside = [y for y in (top - plate[1], bottom + 1) if 0 <= y <= lowest]
    inside = [min(max(y, 0), lowest) for y in (top, bottom + 1 - plate[1])]
    places = outside + inside
    return x, next((y for y in places if _free((x, y, x + plate[0], y + plate[1]), taken)), places[0])


def _free(place: Rectangle, taken: Sequence[Rectangle]) -> bool:
    return not any(
        place[0] < right and place[2] > left and place[1] < bottom and place[3] > top
        for left, top, right, bottom in taken
    )


def _bars(canvas: Image, face: Face, grow: int, longer: int, taken: Sequence[Rectangle], below: int) -> list[Rectangle]:
    """Draw a bar for each probability beside the face or from `below` on; the place they took, none without room."""
    shares = list(face.shown.emotion.probabilities.items())
    inks = colours(face.shown.emotion.probabilities)
    letter = max(0.012 * longer, 9.0)
    thick = max(1, round(letter / 10))
    names = max(cv2.getTextSize(name, _FONT, letter / _CAPITAL, thick)[0][0] for name, _ in shares)
    pad, row, longest = round(0.6 * letter), round(1.7 * letter), round(4 * letter)
    width = names + longest + 3 * pad
    height, across = canvas.shape[:2]
    left, top, right, _ = _outside(face, grow)
    middle = max(0, min(left, across - width))
    for chosen in (shares, sorted(shares, key=lambda share: -share[1])[:3]):
        deep = row * len(chosen) + pad
        beside = min(max(top, 0), height - deep)
        places = [(right + pad, beside), (left - pad - width, beside), (middle, below + pad)]
        for x, y in places:
            place = (x, y, x + width, y + deep)
            if min(x, y) < 0 or place[2] > across or place[3] > height or not _free(place, taken):
                continue
            # the picture shows through
            ground = canvas[y : place[3], x : place[2]]
            ground[:] = ground // 4
            for number, (name, share) in enumerate(chosen):
                base = y + pad + number * row
                end = (x + pad, base + round(letter))
                cv2.putText(canvas, name, end, _FONT, letter / _CAPITAL, (255, 255, 255), thick, cv2.LINE_AA)
                start = x + 2 * pad + names
                cv2.rectangle(canvas, (start, base), (start + longest - 1, end[1]), (90, 90, 90), -1)
                if filled := round(share * longest):
                    cv2.rectangle(canvas, (start, base), (start + filled - 1, end[1]), inks[name], -1)
            return [place]
    return []
