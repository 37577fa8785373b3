"""The report page: it needs nothing but itself, and shows what it was given as it was given."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import cv2
import pytest

from facexp_train.reporting import page, style


class Parsed(HTMLParser):
    """Tags with their attributes, the texts, and whether every element was closed in its order."""

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


def test_the_page_stands_alone(tmp_path: Path) -> None:
    """Guards that nothing outside the file is asked for, that data is text and no markup, and what pictures say."""
    made = page.write(report(tmp_path), tmp_path, {})
    for beside in tmp_path.glob("*.png"):
        beside.unlink()
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


def test_intervals_stand_like_numbers(tmp_path: Path) -> None:
    """Guards that an interval is not broken into two lines, and that text beside it is."""
    rows = [["left eye", "1.2 [1.0, 1.4]", "1 [2] 3"], ["nose", "", "x"]]
    table = page.Table("points", "Points", ["point", "error, %", "note"], rows)
    made = page.write(page.Page("t", "l", [page.Section("First", [table])]), tmp_path, {})
    cells = [attributes.get("class") for tag, attributes in Parsed(made.read_text()).tags if tag == "td"]
    assert cells == [None, "number", None] * 2


def test_the_numbers_beside_it(tmp_path: Path) -> None:
    """Guards that the CSV has every row in full precision, and that the JSON is JSON even of what is not a number."""
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


def test_a_figure_is_whole_or_not_there(tmp_path: Path) -> None:
    """Guards that a drawing that fails leaves the earlier picture, and that the same numbers give the same bytes."""
    report(tmp_path)
    first = (tmp_path / "line.png").read_bytes()
    with pytest.raises(ValueError, match="x and y"), style.drawing(tmp_path / "line.png") as figure:
        figure.subplots().plot([1, 2], [1])
    assert (tmp_path / "line.png").read_bytes() == first
    report(tmp_path)
    assert (tmp_path / "line.png").read_bytes() == first
    assert cv2.imread(str(tmp_path / "line.png")).shape == (2 * style.DPI, 3 * style.DPI, 3)


def test_a_name_is_no_formula(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Guards files and classes whose names hold dollars, which matplotlib would set as mathematics, or fail to."""
    for name in ("face_$15_$.png", "a$\\frac{$.png", "\u8138 \u56f0\u5026"):
        with style.drawing(tmp_path / "line.png") as figure:
            figure.subplots().set(title=name, xticks=[0], xticklabels=[name])
    assert not recwarn.list
