"""Annotated pictures: boxes, keypoints, labels and probabilities, drawn on a copy of the picture."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from facexp.geometry import Image
from facexp.types import Face

MIN_SIDES = (48, 320)
"""Shorter and longer side in pixels: a picture with a shorter or longer side below this is enlarged, so that a label
fits into it."""
MAX_ENLARGED_SIDE = 4096
"""No picture is enlarged beyond this many pixels on its longer side."""

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
Rectangles = NDArray[np.intp]
"""(N, 4) left, top, right and bottom; zeros stand for a rectangle that was not drawn."""

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
# labels in a crowd become smaller, in steps of this factor, until their capital letters have this many pixels
_SHRINK, _LEAST_LETTER = 0.7, 9.0
# a label may lie on its own face if it covers at most this share of the face's height
_COVERED_SHARE = 0.25


def annotate(image: Image, faces: Sequence[Face]) -> Image:
    """A copy of a BGR (H, W, 3) or gray (H, W) uint8 picture with each face's box, points and emotion, BGR (h, w, 3).

    Points and emotion are the smoothed ones where they exist. A label covers no other label and no other face: where
    there is less room it is smaller, then without the percentage, or left out, so that only the box's colour shows the
    emotion. The probabilities are drawn as bars next to or below the face, where they cover no face, label or other
    bars: all of them, or the three largest where there is less room, or none. The copy has the picture's size, or a
    whole multiple of it where the picture is smaller than MIN_SIDES. A face may lie partly or wholly outside the
    picture.
    """
    canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image.copy()
    shorter, longer = sorted(canvas.shape[:2])
    wanted = max(-(-MIN_SIDES[0] // shorter), -(-MIN_SIDES[1] // longer))
    scale = max(1, min(wanted, MAX_ENLARGED_SIDE // longer))
    if scale > 1:
        canvas = cv2.resize(canvas, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        longer *= scale
    drawn = np.asarray(canvas, dtype=np.uint8)
    for face in faces:
        _box(drawn, face, scale, longer)
    for face in faces:
        _points(drawn, face, scale)
    # labels after all boxes and points, so that a neighbour's box does not cross them
    bounds = np.array([_bounds(face, scale) for face in faces], np.intp).reshape(-1, 4)
    plates = np.zeros_like(bounds)
    for number, face in enumerate(faces):
        others = np.concatenate([plates, np.delete(bounds, number, axis=0)])
        plates[number] = _label(drawn, face, scale, longer, others)
    # bars last, only where they cover no face, label or other bars
    taken = np.concatenate([plates, bounds])
    for face, below in zip(faces, np.maximum(plates, bounds)[:, 3].tolist(), strict=True):
        panels = _bars(drawn, face, scale, longer, taken, below)
        taken = np.concatenate([taken, np.array(panels, np.intp).reshape(-1, 4)])
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


def _label(canvas: Image, face: Face, scale: int, longer: int, taken: Rectangles) -> Rectangle:
    """Draw the label where it covers nothing in `taken`, and return its rectangle; zeros where there is no room."""
    emotion = face.shown.emotion
    short = f"{'' if face.id is None else f'#{face.id} '}{emotion.label}"
    text = f"{short} {100 * emotion.probabilities[emotion.label]:.0f}%"
    height, width = canvas.shape[:2]
    letter = _letter(face, scale, longer)
    plate = _plate(text, letter)[0]
    fit = min(width / plate[0], height / plate[1])
    if fit < 1:
        # 10% smaller than the exact fit, because strokes and margins are rounded to whole pixels; text that still does
        # not fit, in a strip of a few pixels, would be illegible
        letter *= 0.9 * fit
    letters = [letter]
    while letters[-1] > _LEAST_LETTER:
        letters.append(max(_SHRINK * letters[-1], _LEAST_LETTER))
    tries = [(text, each, _COVERED_SHARE) for each in letters]
    for words, letter, covered in (*tries, (short, letters[-1], _COVERED_SHARE), (text, letters[-1], 1.0)):
        plate, pad, thick, baseline = _plate(words, letter)
        place = _place(plate, _corners(face, scale), (width, height), taken, covered)
        if place is not None:
            break
    else:
        return 0, 0, 0, 0
    x, y = place
    colour = _colour(face)
    cv2.rectangle(canvas, (x, y), (x + plate[0] - 1, y + plate[1] - 1), colour, -1)
    dark = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] < 128
    text_colour = (255, 255, 255) if dark else (0, 0, 0)
    cv2.putText(canvas, words, (x + pad, y + baseline), _FONT, letter / _CAPITAL, text_colour, thick, cv2.LINE_AA)
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
    plate: tuple[int, int], face: Rectangle, picture: tuple[int, int], taken: Rectangles, covered: float
) -> tuple[int, int] | None:
    """The top left corner of a plate: above the face, else below it, else inside it; None where there is no room.

    The plate lies wholly in the picture, whose size is `picture`, and off the rectangles in `taken`. It may cover the
    share `covered` of its own face's height.
    """
    left, top, right, bottom = face
    rightmost, lowest = picture[0] - plate[0], picture[1] - plate[1]
    if min(rightmost, lowest) < 0:
        return None
    columns = [min(max(x, 0), rightmost) for x in (left, right + 1 - plate[0])]
    outside = [y for y in (top - plate[1], bottom + 1) if 0 <= y <= lowest]
    inside = [min(max(y, 0), lowest) for y in (top, bottom + 1 - plate[1])]
    rows = outside + inside if plate[1] <= covered * (bottom + 1 - top) else outside
    places = ((x, y) for y in rows for x in columns)
    return next(((x, y) for x, y in places if _is_free((x, y, x + plate[0], y + plate[1]), taken)), None)


def _is_free(place: Rectangle, taken: Rectangles) -> bool:
    left, top, right, bottom = taken.T
    return not ((place[0] < right) & (place[2] > left) & (place[1] < bottom) & (place[3] > top)).any()


def _bars(canvas: Image, face: Face, scale: int, longer: int, taken: Rectangles, below: int) -> list[Rectangle]:
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
