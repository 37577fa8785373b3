"""`facexp explore`: a report about a dataset, to read before training on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp.geometry import KEYPOINTS
from facexp_train.data.splits import SPLITS
from facexp_train.errors import DataError
from facexp_train.exploration import figures
from facexp_train.exploration.findings import Finding, contrast, dataset_warnings, find
from facexp_train.exploration.shapes import Shape, known_points
from facexp_train.exploration.survey import Survey, survey
from facexp_train.progress import progress_bar
from facexp_train.reporting.page import Cell, Page, Part, Picture, Section, Table, write

Judge = Callable[[list[NDArray[np.uint8]]], NDArray[np.bool_]]
"""Gray uint8 pictures, each to be filled by a face -> bool (N,): whether each shows a face."""
_BATCH = 256
_PICTURED = 12
"""Number of faces of a finding that the page shows."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """What was found: `summary` is text for the terminal, `warnings` are one line each, `page` is the report's path."""

    summary: str
    warnings: tuple[str, ...]
    page: Path


def explore(
    data: str | Path, out: Path, votes: str | Path | None = None, judge: Judge | None = None, *, quiet: bool = False
) -> Exploration:
    """Examine a dataset of any format that the readers support, and write a report about it into the folder `out`.

    The report is index.html, which needs no other file; its pictures as PNG; classes.csv, points.csv, light.csv and
    findings.csv (one line per row and finding); and numbers.json. `judge` decides whether each picture shows a face;
    without it this is not examined. The splits of a file that names none are drawn as in training. Raises DataError if
    the dataset cannot be read or the report would be among its files, and OSError if `out` cannot be written.
    """
    place, folder = Path(data).resolve(), out.resolve()
    if folder in (place, place.parent) or place in folder.parents:
        raise DataError(f"{out}: the report would be among the files of the data; give another folder")
    faces = survey(data, votes, quiet=quiet)
    seen = None if judge is None else _judged(faces, judge, quiet)
    found = find(faces, seen)
    warnings = [*dataset_warnings(faces), *(finding.warning(faces) for finding in found if finding.harm)]
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with progress_bar(4 + len(found), "drawing", "picture", quiet=quiet) as bar:
        sections = [_overview(faces, out), _samples(faces, out, rng)]
        bar.update(2)
        if faces.points is not None:
            sections.append(_points(faces, out, rng))
        bar.update()
        light, spread = _light(faces, out)
        sections.append(light)
        bar.update()
        sections.append(_found(faces, found, seen is not None, out, bar.update))
    size = faces.images.shape[1]
    lead = f"{len(faces):,} faces of {size}x{size} pixels, labelled for {faces.task}. {faces.rows_note}"
    name = Path(data).name
    content = Page(f"Dataset {name}", lead, sections, warnings)
    numbers: dict[str, object] = {
        "data": str(data),
        "task": faces.task,
        "faces": len(faces),
        "size_px": size,
        "splits": {split: int((faces.split == split).sum()) for split in SPLITS},
        "brightness_mean": float(spread[0].mean()),
        "contrast_mean": float(spread[1].mean()),
        "findings": {finding.kind: len(finding.faces) for finding in found},
        "networks_asked": seen is not None,
    }
    page = write(content, out, numbers)
    return Exploration(_summary(name, lead, faces, found, warnings), tuple(warnings), page)


def _judged(faces: Survey, judge: Judge, quiet: bool) -> NDArray[np.bool_]:
    seen = np.ones(len(faces), np.bool_)
    with progress_bar(len(faces), "looking for faces", "image", quiet=quiet) as bar:
        for start in range(0, len(faces), _BATCH):
            some = faces.images[start : start + _BATCH]
            seen[start : start + len(some)] = judge(list(some))
            bar.update(len(some))
    return seen


def _counts(faces: Survey) -> tuple[list[str], dict[str, NDArray[np.int64]]]:
    """The names that faces are counted by (classes, or else sources), and the counts (names,) in each split."""
    if faces.labels is not None:
        names, codes = list(faces.classes), faces.labels
    else:
        found, codes = np.unique(faces.source, return_inverse=True)
        names = [str(name) for name in found]
    return names, {
        split: np.bincount(codes[faces.split == split], minlength=len(names))
        for split in SPLITS
        if (faces.split == split).any()
    }


def _overview(faces: Survey, out: Path) -> Section:
    names, counts = _counts(faces)
    kind = "class" if faces.labels is not None else "source"
    rows: list[list[Cell]] = []
    for index, name in enumerate(names):
        row: list[Cell] = [name, sum(int(count[index]) for count in counts.values())]
        for count in counts.values():
            row += [int(count[index]), round(100 * float(count[index]) / float(count.sum()), 2)]
        rows.append(row)
    total: list[Cell] = ["all", len(faces)]
    for count in counts.values():
        total += [int(count.sum()), 100.0]
    columns = [kind, "faces", *(f"{split}{unit}" for split in counts for unit in ("", " %"))]
    figures.draw_shares(counts, names, out / "classes.png", "part of the split, %; the numbers are faces")
    shares = "; ".join(f"{split} {int(count.sum()):,} faces" for split, count in counts.items())
    return Section(
        f"Faces by {kind}",
        [
            Picture("classes", f"Bars of the share of each {kind} in each split: {shares}."),
            Table("classes", f"Faces of each {kind} in each split", columns, [*rows, total], shown=40),
        ],
    )


def _samples(faces: Survey, out: Path, rng: np.random.Generator) -> Section:
    figures.draw_samples(faces, out / "samples.png", rng)
    figures.draw_mean_faces(faces, out / "mean_face.png")
    detail = "a row for each class" if faces.labels is not None else "with their points; left is the person's left"
    return Section(
        "Samples",
        [
            Picture("samples", f"Faces of the dataset, {detail}.", f"Drawn at random, {detail}."),
            Picture("mean_face", "Blurred mean faces.", "The mean of all pictures of a group; their number is below."),
        ],
    )


def _points(faces: Survey, out: Path, rng: np.random.Generator) -> Section:
    assert faces.points is not None
    figures.draw_missing(faces.points, out / "missing.png")
    shape = figures.draw_mean_shape(faces, out / "mean_shape.png")
    figures.draw_scatter(faces, out / "scatter.png", rng)
    return Section(
        "Points",
        [
            Picture("missing", "Bars of how many faces have each of the 15 points."),
            Picture(
                "mean_shape",
                "The mean face with the mean of each point and an ellipse around it.",
                "Mean points and ellipses of two standard deviations, over the mean face.",
            ),
            Picture(
                "scatter",
                "The points of many faces, drawn on top of each other.",
                "Every point of up to 2,000 faces; neighbouring points have different colours.",
            ),
            _point_table(faces.points, shape),
        ],
    )


def _point_table(points: NDArray[np.float32], shape: Shape) -> Table:
    known = known_points(points)
    rows: list[list[Cell]] = [
        [
            name,
            int(known[:, index].sum()),
            int((~known[:, index]).sum()),
            round(100 * float((~known[:, index]).mean()), 2),
            *(float(value) for value in shape.mean[index]),
            *(float(value) for value in np.sqrt(np.diagonal(shape.spread[index]))),
        ]
        for index, name in enumerate(KEYPOINTS)
    ]
    columns = ["point", "labelled", "missing", "missing %", "mean x px", "mean y px", "sd x px", "sd y px"]
    return Table("points", "Each point: how often it is labelled, and its position", columns, rows)


def _light(faces: Survey, out: Path) -> tuple[Section, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    brightness = np.array([image.mean() for image in faces.images])
    spread = contrast(faces.images)
    figures.draw_light(brightness, spread, faces.split, out / "light.png")
    rows: list[list[Cell]] = []
    for split in SPLITS:
        chosen = faces.split == split
        for name, values in (("brightness", brightness), ("contrast", spread)):
            if chosen.any():
                parts = np.quantile(values[chosen], [0, 0.05, 0.5, 0.95, 1])
                rows.append([split, name, float(values[chosen].mean()), *(float(part) for part in parts)])
    columns = ["split", "measure", "mean", "least", "5%", "median", "95%", "most"]
    parts = [
        Picture("light", "Histograms of the brightness and of the contrast of the pictures, a line for each split."),
        Table("light", "Brightness and contrast, in gray values of 0 to 255", columns, rows),
    ]
    return Section("Light", parts), (brightness, spread)


def _found(faces: Survey, found: list[Finding], judged: bool, out: Path, drawn: Callable[[], object]) -> Section:
    parts: list[Part] = []
    if not judged:
        parts.append("Whether the pictures show faces was not checked; `facexp explore` does so if it has onnxruntime.")
    summary: list[list[Cell]] = [[finding.kind, len(finding.faces), finding.text] for finding in found]
    parts.append(Table("found", "What was found", ["kind", "faces", "what it is"], summary, shown=40))
    lines: list[list[Cell]] = []
    for finding in found:
        name = finding.kind.replace(" ", "_")
        shown = finding.faces[:_PICTURED]
        figures.draw_faces(faces, shown, finding.details[:_PICTURED], out / f"{name}.png")
        rows = ", ".join(str(row) for row in faces.rows[shown])
        parts.append(Picture(name, f"{finding.headline}. Shown are rows {rows}.", finding.headline))
        lines += [
            [str(faces.rows[face]), str(faces.split[face]), finding.kind, detail]
            for face, detail in zip(finding.faces, finding.details, strict=True)
        ]
        drawn()
    parts.append(Table("findings", "Row by row", ["row", "split", "finding", "detail"], lines))
    return Section("Findings", parts)


def _summary(name: str, lead: str, faces: Survey, found: list[Finding], warnings: list[str]) -> str:
    """The text for the terminal: counts, warnings, and notes about harmless findings."""
    names, counts = _counts(faces)
    lines = [f"{name}: {lead}", "", f"{'':<12}" + "".join(f"{split:>9}" for split in counts)]
    for index, label in [*enumerate(names), (-1, "all")]:
        cells = (int(count.sum() if index < 0 else count[index]) for count in counts.values())
        lines.append(f"{label[:12]:<12}" + "".join(f"{cell:>9,}" for cell in cells))
    lines += ["", *(f"Warning: {warning}" for warning in warnings)]
    lines += [f"Note: {finding.headline}" for finding in found if not finding.harm]
    return "\n".join(lines)
