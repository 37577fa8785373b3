"""Write the tables of README.md and model-card.md from the shipped manifest, so that no figure is typed by hand.

python docs/figures.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ROOT / "runtime" / "facexp" / "models" / "manifest.json"
FILES = (ROOT / "README.md", ROOT / "docs" / "model-card.md")
Json = dict[str, Any]


LABELLINGS = {
    "fer2013": "FER2013's labels",
    "ferplus_clear": "FER+, more than half of all votes",
    "ferplus": "FER+, single votes dropped",
}

GROUPED = {
    "error_interocular": "error, %",
    "error_interocular_median": "median, %",
    "faces_above_10": "faces above 10%, %",
}


def cell(model: Json, split: str, metric: str, precision: str = "int8", percent: bool = True) -> str:
    """A figure as "6.1 [5.8, 6.3]", or a dash."""
    for figure in model["figures"]:
        if (figure["split"], figure["metric"], figure["model"]) == (split, metric, precision):
            factor, digits = (100, 1) if percent else (1, 2)
            value, low, high = (f"{factor * figure[key]:.{digits}f}" for key in ("value", "low", "high"))
            return f"{value} [{low}, {high}]"
    return "-"


def count(model: Json, split: str, metric: str) -> str:
    """How many faces a figure is over."""
    return next((f"{f['n']:,}" for f in model["figures"] if (f["split"], f["metric"]) == (split, metric)), "-")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(models: Json) -> str:
    """README's table."""
    points, emotion = models["keypoints"], models["emotion"]
    rows = []
    listed = [
        ("keypoints, error over inter-ocular distance, %", points, "error_interocular"),
        ("keypoints, faces with an error above 10%, %", points, "faces_above_10"),
    ]
    for classes, suffix in ((7, ""), (5, "_five")):
        for name, title in LABELLINGS.items():
            listed.append((f"emotion, {classes} classes, {title}, accuracy, %", emotion, f"{name}{suffix}/accuracy"))
    for title, model, metric in listed:
        cells = [cell(model, "test", metric, precision) for precision in ("int8", "float32")]
        rows.append([title, *cells, count(model, "test", metric)])
    return table(["on `test` (FER2013: PrivateTest)", "int8", "float32", "faces"], rows)


def sizes(models: Json) -> str:
    """The model card's table of files."""
    rows = []
    for name, model in models.items():
        parameters = model["training"]["parameters"] / 1e6
        megabytes = [f"{model['files'][precision]['bytes'] / 1e6:.2f}" for precision in ("int8", "float32")]
        rows.append([name, f"{parameters:.2f}", *megabytes])
    return table(["network", "parameters, M", "int8, MB", "float32, MB"], rows)


def keypoints(models: Json) -> str:
    """Errors by source, then by point."""
    model = models["keypoints"]
    columns = {
        "error, %": ("error_interocular", True),
        "median, %": ("error_interocular_median", True),
        "RMSE at 96 px": ("rmse_px", False),
        "faces above 10%, %": ("faces_above_10", True),
        "points within 5%, %": ("points_within_5", True),
        "points within 10%, %": ("points_within_10", True),
    }
    rows = []
    for precision in ("int8", "float32"):
        for split in ("test", "test/face21", "test/ytfaces"):
            cells = [cell(model, split, metric, precision, percent) for metric, percent in columns.values()]
            rows.append([split, precision, count(model, split, "error_interocular"), *cells])
    by_group = [
        [name, count(model, f"test/{name}", "error_interocular"), *(cell(model, f"test/{name}", m) for m in GROUPED)]
        for name in ("frontal", "turned", "profile", "below 64 px", "64 to 128 px", "above 128 px")
    ]
    by_point = [[name, cell(model, "test", f"error_interocular/{name}")] for name in model["labels"]]
    return "\n\n".join(
        [
            table(["split", "file", "faces", *columns], rows),
            table(["pose or size (int8, `test`)", "faces", *GROUPED.values()], by_group),
            table(["point (int8, `test`)", "error, %"], by_point),
        ]
    )


def detected(models: Json) -> str:
    """The whole way through the detector, by source of the validation faces."""
    model = models["keypoints"]
    metrics = {
        "detected_error_interocular": "error, %",
        "detected_error_interocular_median": "median, %",
        "detected_failures": "above 10% or not found, %",
        "detected_missed": "not found, %",
    }
    rows = [
        [source, count(model, f"val/{source}", "detected_missed"), *(cell(model, f"val/{source}", m) for m in metrics)]
        for source in ("face21", "helen", "mtfl", "ytfaces")
    ]
    return table(["source (int8, `val`)", "faces", *metrics.values()], rows)


def emotion(models: Json) -> str:
    """Accuracy and macro-F1 per labelling, then the classes."""
    model = models["emotion"]
    rows = []
    for name, title in LABELLINGS.items():
        for classes, suffix in (("seven", ""), ("five", "_five")):
            for precision in ("int8", "float32"):
                metrics = [f"{name}{suffix}/{metric}" for metric in ("accuracy", "macro_f1")]
                cells = [cell(model, "test", metric, precision) for metric in metrics]
                rows.append([f"{title}, {classes}", precision, count(model, "test", metrics[0]), *cells])
    parts = [table(["labels", "file", "faces", "accuracy", "macro-F1"], rows)]
    for name in ("fer2013", "ferplus"):
        classes = [
            [label, *(cell(model, "test", f"{name}/{metric}/{label}") for metric in ("recall", "precision", "f1"))]
            for label in model["labels"]
        ]
        parts.append(table([f"class ({LABELLINGS[name]}, int8)", "recall", "precision", "F1"], classes))
    return "\n\n".join(parts)


TABLES = {"summary": summary, "sizes": sizes, "keypoints": keypoints, "detected": detected, "emotion": emotion}


def filled(text: str, models: Json) -> str:
    """The text with a fresh table between each pair of markers."""
    return re.sub(
        r"(<!-- figures: (\w+) -->\n).*?(\n<!-- end -->)",
        lambda found: found[1] + TABLES[found[2]](models) + found[3],
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    shipped = json.loads(MANIFEST.read_text())["models"]
    for path in FILES:
        path.write_text(filled(path.read_text(), shipped))
