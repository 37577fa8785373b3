"""Annotated pictures: boxes, keypoints, labels and probabilities, drawn on a copy of the picture."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from facexp.geometry import Image
from facexp.types import Face

MIN_SIDES = (48, 320)
"""Shorter and longer side in pixels: a picture with a shorter or longer side below this is enlarged, so that a label
fits into it."""
MAX_ENLARGED_SIDE = 4096
"""No picture is enlarged beyond this many pixels on its longer side."""

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
"""The BGR colour of each of the seven emotions."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# height of a capital letter in pixels at font scale 1
_CAPITAL = cv2.getTextSize("H", _FONT, 1.0, 1)[0][1]
# fractional bits of the drawn keypoint coordinates: whole pixels would be too coarse for a small face
_SHIFT = 4


def annotate(image: Image, faces: Sequence[Face]) -> Image:
    """A copy of a BGR (H, W, 3) or gray (H, W) uint8 picture with each face's box, points and emotion, BGR (h, w, 3).

    Points and emotion are the smoothed ones where they exist. The probabilities are drawn as bars next to or below the
    face, where they cover no face, label or other bars: all of them, or the three largest where there is less room, or
    none. The copy has the picture's size, or a whole multiple of it where the picture is smaller than MIN_SIDES. A face
    may lie partly or wholly outside the picture.
    """
    canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image.copy()
    shorter, longer = sorted(canvas.shape[:2])
    wanted = max(-(-MIN_SIDES[0] // shorter), -(-MIN_SIDES[1] // longer))
    scale = max(1, min(wanted, MAX_ENLARGED_SIDE // longer))
    if scale > 1:
        canvas = cv2.resize(canvas, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        longer *= scale
    drawn = np.asarray(canvas, dtype=np.uint8)
    plates: list[Rectangle] = []
    for face in faces:
        _box(drawn, face, scale, longer)
    for face in faces:
        _points(drawn, face, scale)
    # labels after all boxes and points, so that a neighbour's box does not cross them
    for face in faces:
        plates.append(_label(drawn, face, scale, longer, plates))
    # bars last, only where they cover no face, label or other bars
    taken = plates + [_bounds(face, scale) for face in faces]
    for face, plate in zip(faces, plates, strict=True):
        taken += _bars(drawn, face, scale, longer, taken, max(plate[3], _bounds(face, scale)[3]))
    return drawn


def colours(labels: Iterable[str]) -> dict[str, Colour]:
    """The BGR colour of each label: that of COLOURS, or for other labels the unused ones of COLOURS in turn."""
    labels = list(labels)
    others = [label for label in labels if label not in COLOURS]
    free = [colour for label, colour in COLOURS.items() if label not in labels] or list(COLOURS.values())
    taken = dict(zip(others, itertools.cycle(free), strict=False))
    return {label: COLOURS.get(label) or taken[label] for label in labels}


def _colour(face: Face) -> Colour:
    emotion = face.shown.emotion
    return colours(emotion.probabilities)[emotion.label]


def _corners(face: Face, scale: int) -> tuple[int, int, int, int]:
    x, y, w, h = (round(scale * value) for value in face.box)
    return x, y, x + w - 1, y + h - 1


def _bounds(face: Face, scale: int) -> Rectangle:
    left, top, right, bottom = _corners(face, scale)
    return left, top, right + 1, bottom + 1


def _letter(face: Face, scale: int, longer: int) -> float:
    """Height of a capital letter in pixels: proportional to the face, but legible when the whole picture is shown."""
    return min(max(11.0, 0.013 * longer, 0.1 * scale * face.box[2]), 0.05 * longer)


def _box(canvas: Image, face: Face, scale: int, longer: int) -> None:
    left, top, right, bottom = _corners(face, scale)
    width = max(2, round(longer / 400))
    # drawn inside the box, so that a box at the border of the picture still shows
    inset = width // 2
    start, end = (left + inset, top + inset), (right - inset, bottom - inset)
    cv2.rectangle(canvas, start, end, (0, 0, 0), width + 2, cv2.LINE_AA)
    cv2.rectangle(canvas, start, end, _colour(face), width, cv2.LINE_AA)


def _points(canvas: Image, face: Face, scale: int) -> None:
    side = scale * float(np.sqrt(face.box[2] * face.box[3]))
    radius = max(1.0, side / 90)
    places = (np.asarray(face.shown.keypoints, np.float64) + 0.5) * scale - 0.5
    colour = _colour(face)
    for x, y in np.round(places * 2**_SHIFT).astype(int).tolist():
        if radius >= 1.5:
            cv2.circle(canvas, (x, y), round((radius + 1) * 2**_SHIFT), (0, 0, 0), -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(canvas, (x, y), round(radius * 2**_SHIFT), colour, -1, cv2.LINE_AA, _SHIFT)


def _label(canvas: Image, face: Face, scale: int, longer: int, taken: Sequence[Rectangle]) -> Rectangle:
    emotion = face.shown.emotion
    prefix = "" if face.id is None else f"#{face.id} "
    text = f"{prefix}{emotion.label} {100 * emotion.probabilities[emotion.label]:.0f}%"
    left, top, right, bottom = _corners(face, scale)
    height, width = canvas.shape[:2]
    letter = _letter(face, scale, longer)
    plate, pad, thick, baseline = _plate(text, letter)
    fit = min(width / plate[0], height / plate[1])
    if fit < 1:
        # 10% smaller than the exact fit, because strokes and margins are rounded to whole pixels
        letter *= 0.9 * fit
        plate, pad, thick, baseline = _plate(text, letter)
        if plate[0] > width or plate[1] > height:
            # text in a strip of a few pixels would be illegible
            return 0, 0, 0, 0
    x, y = _place(plate, (left, top, right, bottom), (width, height), taken)
    colour = _colour(face)
    cv2.rectangle(canvas, (x, y), (x + plate[0] - 1, y + plate[1] - 1), colour, -1)
    dark = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] < 128
    text_colour = (255, 255, 255) if dark else (0, 0, 0)
    cv2.putText(canvas, text, (x + pad, y + baseline), _FONT, letter / _CAPITAL, text_colour, thick, cv2.LINE_AA)
    return x, y, x + plate[0], y + plate[1]


def _plate(text: str, letter: float) -> tuple[tuple[int, int], int, int, int]:
    """(width, height) of the plate behind a text, its margin, the stroke thickness and the y of the baseline.

    All are in pixels, y from the top of the plate. `letter` is the height of a capital letter.
    """
    thick = max(1, round(letter / 9))
    (width, height), descent = cv2.getTextSize(text, _FONT, letter / _CAPITAL, thick)
    pad = round(letter / 4)
    return (width + 2 * pad, height + descent + 2 * pad), pad, thick, pad + height


def _place(
    plate: tuple[int, int], face: Rectangle, picture: tuple[int, int], taken: Sequence[Rectangle]
) -> tuple[int, int]:
    """The top left corner of a plate: above the face, else below it, else inside it.

    The plate lies wholly in the picture, whose size is `picture`, and off the plates in `taken` where that is possible.
    """
    left, top, _, bottom = face
    x = min(max(left, 0), max(picture[0] - plate[0], 0))
    lowest = max(picture[1] - plate[1], 0)
    outside = [y for y in (top - plate[1], bottom + 1) if 0 <= y <= lowest]
    inside = [min(max(y, 0), lowest) for y in (top, bottom + 1 - plate[1])]
    places = outside + inside
    return x, next((y for y in places if _is_free((x, y, x + plate[0], y + plate[1]), taken)), places[0])


def _is_free(place: Rectangle, taken: Sequence[Rectangle]) -> bool:
    return not any(
        place[0] < right and place[2] > left and place[1] < bottom and place[3] > top
        for left, top, right, bottom in taken
    )


def _bars(
    canvas: Image, face: Face, scale: int, longer: int, taken: Sequence[Rectangle], below: int
) -> list[Rectangle]:
    """Draw a bar for each probability next to the face or from the row `below` on; return the rectangle they cover.

    The list is empty where there is no room and nothing was drawn.
    """
    shares = list(face.shown.emotion.probabilities.items())
    bar_colours = colours(face.shown.emotion.probabilities)
    letter = max(0.012 * longer, 9.0)
    thick = max(1, round(letter / 10))
    name_width = max(cv2.getTextSize(name, _FONT, letter / _CAPITAL, thick)[0][0] for name, _ in shares)
    pad, row_height, bar_length = round(0.6 * letter), round(1.7 * letter), round(4 * letter)
    width = name_width + bar_length + 3 * pad
    height, picture_width = canvas.shape[:2]
    left, top, right, _ = _bounds(face, scale)
    x_below = max(0, min(left, picture_width - width))
    for chosen in (shares, sorted(shares, key=lambda share: -share[1])[:3]):
        panel_height = row_height * len(chosen) + pad
        y_beside = min(max(top, 0), height - panel_height)
        places = [(right + pad, y_beside), (left - pad - width, y_beside), (x_below, below + pad)]
        for x, y in places:
            place = (x, y, x + width, y + panel_height)
            if min(x, y) < 0 or place[2] > picture_width or place[3] > height or not _is_free(place, taken):
                continue
            # darken the background instead of covering it
            panel = canvas[y : place[3], x : place[2]]
            panel[:] = panel // 4
            for number, (name, share) in enumerate(chosen):
                bar_top = y + pad + number * row_height
                text_at = (x + pad, bar_top + round(letter))
                cv2.putText(canvas, name, text_at, _FONT, letter / _CAPITAL, (255, 255, 255), thick, cv2.LINE_AA)
                bar_x = x + 2 * pad + name_width
                cv2.rectangle(canvas, (bar_x, bar_top), (bar_x + bar_length - 1, text_at[1]), (90, 90, 90), -1)
                if filled := round(share * bar_length):
                    cv2.rectangle(canvas, (bar_x, bar_top), (bar_x + filled - 1, text_at[1]), bar_colours[name], -1)
            return [place]
    return []
