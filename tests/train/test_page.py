"""The report page: it is self-contained, and shows its data unaltered."""

from __future__ import annotations

import base64
import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from facexp_train.reporting import page, style


class Parsed(HTMLParser):
    """A page's tags with their attributes, and its texts; asserts that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def report(folder: Path) -> page.Page:
    with style.drawing(folder / "line.png", 2, 3) as figure:
        figure.subplots().plot([1, 3, 2])
    rows = [["a <b>", 1, 0.123456], ["b", 2, float("nan")], ["c", None, 3.0]]
    table = page.Table("cells", "Some cells", ["name", "count", "share"], rows, shown=2)
    parts = [
        "It's <i>text</i>.",
        page.Code("x --a 'b' > c"),
        table,
        page.Picture("line", 'a line "up" and down', "caption"),
    ]
    return page.Page("Faces & points", "lead", [page.Section("First", parts)], ["row 3 is <wrong>"])


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    """Guards that the page loads no other file, that data is text and not markup, and the pictures' alt texts."""
    made = page.write(report(tmp_path), tmp_path, {})
    for picture in tmp_path.glob("*.png"):
        picture.unlink()
    parsed = Parsed(made.read_text())
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "b", "i", "wrong"})
    for _, attributes in parsed.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#"))
    (image,) = (attributes for tag, attributes in parsed.tags if tag == "img")
    assert image["alt"] == 'a line "up" and down'
    assert (image["width"], image["height"]) == ("288", "192")  # 3 x 2 inches of the page
    assert "pre" in {tag for tag, _ in parsed.tags}
    for text in (
        "It's <i>text</i>.",
        "x --a 'b' > c",
        "row 3 is <wrong>",
        "a <b>",
        "0.1235",
        "1 more in cells.csv",
        "1 warning",
    ):
        assert text in parsed.texts
    assert "nan" not in parsed.texts


def test_a_picture_too_long_for_webp_is_embedded_as_it_is(tmp_path: Path) -> None:
    """Guards the samples and ROC curves of 60 classes, which the page showed as broken images."""
    pixels = np.full((16384, 8, 3), 200, np.uint8)
    assert cv2.imwrite(str(tmp_path / "line.png"), pixels)
    made = page.Page("t", "l", [page.Section("First", [page.Picture("line", "a")])])
    (image,) = (attributes for tag, attributes in Parsed(page.render(made, tmp_path)).tags if tag == "img")
    _, _, content = (image["src"] or "").partition("base64,")
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(shown, pixels)


def test_intervals_are_formatted_like_numbers(tmp_path: Path) -> None:
    """Guards that an interval is not broken over two lines, and that other text may be."""
    rows = [["left eye", "1.2 [1.0, 1.4]", "1 [2] 3"], ["nose", "", "x"]]
    table = page.Table("points", "Points", ["point", "error, %", "note"], rows)
    made = page.write(page.Page("t", "l", [page.Section("First", [table])]), tmp_path, {})
    cells = [attributes.get("class") for tag, attributes in Parsed(made.read_text()).tags if tag == "td"]
    assert cells == [None, "number", None] * 2


def test_tables_and_numbers_are_written_next_to_the_page(tmp_path: Path) -> None:
    """Guards that the CSV has every row in full precision, and that the JSON is valid although some values are NaN."""
    page.write(report(tmp_path), tmp_path, {"mean": float("nan"), "deep": [{"high": float("inf"), "low": 0.123456789}]})
    with (tmp_path / "cells.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["name", "count", "share"],
            ["a <b>", "1", "0.123456"],
            ["b", "2", ""],
            ["c", "", "3.0"],
        ]
    assert json.loads((tmp_path / "numbers.json").read_text()) == {
        "title": "Faces & points",
        "warnings": ["row 3 is <wrong>"],
        "mean": None,
        "deep": [{"high": None, "low": 0.123456789}],
    }
    assert not list(tmp_path.glob("*.part"))


def test_figures_are_reproducible_and_survive_a_failed_drawing(tmp_path: Path) -> None:
    """Guards that a failed drawing leaves the earlier picture, and that the same numbers give the same bytes."""
    report(tmp_path)
    first = (tmp_path / "line.png").read_bytes()
    with pytest.raises(ValueError, match="x and y"), style.drawing(tmp_path / "line.png") as figure:
        figure.subplots().plot([1, 2], [1])
    assert (tmp_path / "line.png").read_bytes() == first
    report(tmp_path)
    assert (tmp_path / "line.png").read_bytes() == first
    assert cv2.imread(str(tmp_path / "line.png")).shape == (2 * style.DPI, 3 * style.DPI, 3)


def test_names_in_figures_are_not_typeset_as_formulas(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Guards names with dollar signs, which matplotlib would typeset as formulas or fail on, and Chinese ones."""
    for name in ("face_$15_$.png", "a$\\frac{$.png", "\u8138 \u56f0\u5026"):
        with style.drawing(tmp_path / "line.png") as figure:
            figure.subplots().set(title=name, xticks=[0], xticklabels=[name])
    assert not recwarn.list
