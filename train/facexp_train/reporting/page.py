"""A report: an HTML page that needs no network and fits any screen, its tables as CSV, its numbers as JSON."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape as _e
from pathlib import Path

import cv2
import numpy as np

from facexp.address import as_utf8
from facexp.files import write_atomically
from facexp_train.reporting.style import DPI

Cell = str | int | float | None
INDEX, NUMBERS = "index.html", "numbers.json"
_MAX_WEBP_SIDE = 16383
"""The format's own limit, in pixels; a picture with a row for each of 60 classes is longer."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a report: NAME.csv holds all rows, the page only the first `shown`.

    None and values that are not finite are empty cells. Columns of numbers, also as text with an interval, are
    right-aligned and not wrapped; the page shows floats with four significant digits.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    shown: int = 20


@dataclass(frozen=True, slots=True)
class Picture:
    """The picture NAME.png in the report's folder; `alt` is its alternative text, for screen readers."""

    name: str
    alt: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Code:
    """Lines of text to copy, which are not wrapped: a line that is wider than the screen scrolls."""

    text: str


Part = str | Code | Table | Picture
"""A `str` is a paragraph."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the parts below it."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report. `lead` is the sentence below the title; the warnings are shown above all sections."""

    title: str
    lead: str
    sections: Sequence[Section]
    warnings: Sequence[str] = ()


def write(page: Page, folder: Path, numbers: Mapping[str, object]) -> Path:
    """Write index.html, numbers.json and a CSV file for each table into a folder; return the path of the page.

    The pictures must be in the folder already; they are embedded in the page. `numbers` must be serialisable as JSON; a
    float that is not finite becomes null. OSError if a file cannot be read or written; files are written atomically.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for section in page.sections:
        for part in section.parts:
            if isinstance(part, Table):
                write_atomically(folder / f"{part.name}.csv", as_utf8(_csv(part)).encode())
    content = {"title": page.title, "warnings": list(page.warnings), **numbers}
    text = json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / NUMBERS, (as_utf8(text) + "\n").encode())
    write_atomically(folder / INDEX, as_utf8(render(page, folder)).encode())
    return folder / INDEX


def render(page: Page, folder: Path) -> str:
    """The page as self-contained HTML; its pictures are read from the folder and embedded."""
    links = "".join(f'<li><a href="#s{i}">{_e(s.title)}</a></li>' for i, s in enumerate(page.sections))
    body = "".join(
        f'<section id="s{i}"><h2>{_e(s.title)}</h2>{"".join(_part(part, folder) for part in s.parts)}</section>'
        for i, s in enumerate(page.sections)
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_e(page.title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body><header><h1>{_e(page.title)}</h1><p>{_e(page.lead)}</p>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
        f"<main>{_warnings(page.warnings)}{body}</main></body></html>\n"
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{_e(warning)}</li>" for warning in warnings)
    title = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    return f'<section class="warnings"><h2>{title}</h2><ul>{items}</ul></section>'


def _part(part: Part, folder: Path) -> str:
    if isinstance(part, str):
        return f"<p>{_e(part)}</p>"
    if isinstance(part, Code):
        return f'<pre tabindex="0">{_e(part.text)}</pre>'
    return _table(part) if isinstance(part, Table) else _picture(part, folder)


def _table(table: Table) -> str:
    numeric = [all(_numeric(row[i]) for row in table.rows) for i in range(len(table.columns))]
    kinds = [' class="number"' if known and table.rows else "" for known in numeric]
    head = "".join(f'<th scope="col"{kind}>{_e(name)}</th>' for name, kind in zip(table.columns, kinds, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{_e(_text(cell))}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in table.rows[: table.shown]
    )
    hidden = len(table.rows) - table.shown
    more = f'<p class="more">{hidden:,} more in {_e(table.name)}.csv</p>' if hidden > 0 else ""
    # a table that is wider than the screen scrolls on its own, also by keyboard, without the rest of the page
    return (
        f'<p class="title" id="t-{_e(table.name)}">{_e(table.title)}</p>'
        f'<div class="table" role="region" aria-labelledby="t-{_e(table.name)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{more}"
    )


def _numeric(cell: Cell) -> bool:
    return bool(_INTERVAL.fullmatch(cell)) if isinstance(cell, str) else True


_INTERVAL = re.compile(r"(-?[\d.]+ \[-?[\d.]+, -?[\d.]+\])?")


def _picture(picture: Picture, folder: Path) -> str:
    path = folder / f"{picture.name}.png"
    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None, path
    height, width = pixels.shape[:2]
    if max(height, width) <= _MAX_WEBP_SIDE:
        # a sheet of faces as WebP has a fifth of the PNG's size and looks the same
        kind, data = "webp", cv2.imencode(".webp", pixels, (cv2.IMWRITE_WEBP_QUALITY, 90))[1].tobytes()
    else:
        kind, data = "png", path.read_bytes()
    # a CSS pixel is 1/96 inch
    size = f'width="{round(width * 96 / DPI)}" height="{round(height * 96 / DPI)}"'
    caption = f"<figcaption>{_e(picture.caption)}</figcaption>" if picture.caption else ""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<figure><img {size} alt="{_e(picture.alt)}" src="{source}">{caption}</figure>'


def _csv(table: Table) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([None if _absent(cell) else cell for cell in row] for row in table.rows)
    return stream.getvalue()


def _text(cell: Cell) -> str:
    if _absent(cell):
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _absent(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, float) and not math.isfinite(cell))


def _finite(content: object) -> object:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content


# the same colours as on the runtime's pages
_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1c1e; --faint: #63666b; --line: #dedfe0; --alarm: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #141517; --ink: #ececec; --faint: #a0a4aa; --line: #33363a; --alarm: #ff8a80; }
  img { filter: brightness(.85); }
}
* { box-sizing: border-box; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem;
  background: var(--ground); color: var(--ink); overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
header p { color: var(--faint); margin: .3rem 0; } a { color: inherit; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; list-style: none; padding: 0; }
section { border-top: 1px solid var(--line); padding-top: 1rem; margin-top: 1.5rem; }
.warnings { border: 0; border-left: .4rem solid var(--alarm); padding: .2rem 0 .2rem 1rem; }
.warnings h2 { color: var(--alarm); } .warnings ul { margin: 0; padding-left: 1.1rem; }
.warnings li { margin: .3rem 0; }
p { max-width: 46rem; } pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--line); border-radius: .3rem; }
figure { display: inline-block; vertical-align: top; margin: .5rem 1rem .5rem 0; max-width: 100%; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: .3rem; }
figcaption { color: var(--faint); font-size: .85rem; margin-top: .3rem; max-width: 28rem; }
.title { font-weight: 600; margin: .8rem 0 .3rem; }
.table { overflow-x: auto; margin: 0 0 .8rem; } .more { color: var(--faint); font-size: .85rem; margin: .3rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 500; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
"""
