"""Write the tables of README.md and model-card.md from the figures of the shipped bundle: python docs/figures.py

Each table replaces the text between "<!-- figures: NAME -->" and "<!-- end -->".
"""

from __future__ import annotations

import itertools
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

INT8 = "int8.onnx"

GROUPED = {
    "error_interocular": "error, %",
    "error_interocular_median": "median, %",
    "faces_above_10": "faces above 10%, %",
}


def most_exact_key(model: Json) -> str:
    """Return the key of the most exact ONNX file of a shipped model."""
    return next(key for key in ("float32.onnx", "float16.onnx") if key in model["files"])


def precision(key: str) -> str:
    """Return a file's name in the tables, which is its precision."""
    return key.partition(".")[0]


def cell(model: Json, split: str, metric: str, key: str = INT8) -> str:
    """Format a figure as "6.1 [5.8, 6.3]", in % unless it is in pixels; "-" if the manifest lacks it."""
    for figure in model["figures"]:
        if (figure["split"], figure["metric"], figure["model"]) == (split, metric, key):
            factor, digits = (1, 2) if metric.endswith("_px") else (100, 1)
            value, low, high = (f"{factor * figure[name]:.{digits}f}" for name in ("value", "low", "high"))
            return f"{value} [{low}, {high}]"
    return "-"


def count(model: Json, split: str, metric: str) -> str:
    """Return the number of faces that a figure was measured on; "-" if the manifest lacks it."""
    return next((f"{f['n']:,}" for f in model["figures"] if (f["split"], f["metric"]) == (split, metric)), "-")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Format a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(models: Json) -> str:
    """Return README's table of both networks' main figures."""
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
        cells = [cell(model, "test", metric, key) for key in (INT8, most_exact_key(model))]
        aligned = cell(model, "test/aligned", metric) if model is emotion else ""
        rows.append([title, *cells, aligned, count(model, "test", metric)])
    most = f"{precision(most_exact_key(points))} (emotion: {precision(most_exact_key(emotion))})"
    return table(["on `test` (FER2013: PrivateTest)", "int8", most, "int8, aligned", "faces"], rows)


def sizes(models: Json) -> str:
    """Return the model card's table of parameters and file sizes."""
    rows = []
    for name, model in models.items():
        parameters = model["training"]["parameters"] / 1e6
        keys = (INT8, "int8.tflite", most_exact_key(model))
        small, mobile, most = (f"{model['files'][key]['bytes'] / 1e6:.2f}" for key in keys)
        rows.append([name, f"{parameters:.2f}", small, mobile, f"{most} ({precision(most_exact_key(model))})"])
    return table(["network", "parameters, M", "int8.onnx, MB", "int8.tflite, MB", "most exact ONNX file, MB"], rows)


def keypoints(models: Json) -> str:
    """Return the tables of keypoint errors: by data source, by pose and size, and by point."""
    model = models["keypoints"]
    columns = {
        "error_interocular": "error, %",
        "error_interocular_median": "median, %",
        "rmse_px": "RMSE at 96 px",
        "faces_above_10": "faces above 10%, %",
        "points_within_5": "points within 5%, %",
        "points_within_10": "points within 10%, %",
    }
    rows = []
    for key in (INT8, most_exact_key(model)):
        for split in ("test", "test/face21", "test/ytfaces"):
            cells = [cell(model, split, metric, key) for metric in columns]
            rows.append([split, precision(key), count(model, split, "error_interocular"), *cells])
    by_group = [
        [name, count(model, f"test/{name}", "error_interocular"), *(cell(model, f"test/{name}", m) for m in GROUPED)]
        for name in ("frontal", "turned", "profile", "below 64 px", "64 to 128 px", "above 128 px")
    ]
    by_point = [[name, cell(model, "test", f"error_interocular/{name}")] for name in model["labels"]]
    return "\n\n".join(
        [
            table(["split", "file", "faces", *columns.values()], rows),
            table(["pose or size (int8, `test`)", "faces", *GROUPED.values()], by_group),
            table(["point (int8, `test`)", "error, %"], by_point),
        ]
    )


def detected(models: Json) -> str:
    """Return the table of errors with detection included, by source of the validation faces."""
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
    """Return the tables of accuracy, macro-F1 and calibration error by labelling, and of the figures by class."""
    model = models["emotion"]
    rows = []
    for name, title in LABELLINGS.items():
        for classes, suffix in (("seven", ""), ("five", "_five")):
            for key in (INT8, most_exact_key(model)):
                metrics = [f"{name}{suffix}/{metric}" for metric in ("accuracy", "macro_f1", "calibration_error")]
                cells = [cell(model, "test", metric, key) for metric in metrics]
                aligned = [cell(model, "test/aligned", metric, key) for metric in metrics[:2]]
                rows.append([f"{title}, {classes}", precision(key), count(model, "test", metrics[0]), *cells, *aligned])
    columns = ["accuracy", "macro-F1", "calibration error", "accuracy, aligned", "macro-F1, aligned"]
    parts = [table(["labels", "file", "faces", *columns], rows)]
    for name in ("fer2013", "ferplus"):
        classes = [
            [label, *(cell(model, "test", f"{name}/{metric}/{label}") for metric in ("recall", "precision", "f1"))]
            for label in model["labels"]
        ]
        parts.append(table([f"class ({LABELLINGS[name]}, int8)", "recall", "precision", "F1"], classes))
    return "\n\n".join(parts)


def report(task: str) -> Json:
    """Return the checks that the proof made when the task was exported, by (step, file, output, name of the check)."""
    steps = json.loads(MANIFEST.with_name(f"{task}.report.json").read_text())["steps"]
    return {
        (step["number"], check.get("file", ""), check.get("output", ""), check["what"]): check
        for step in steps
        for check in step["checks"]
    }


def measured(check: Json) -> str:
    """Format a measured value, with its interval if it has one."""
    interval = f" [{check['low']:.2g}, {check['high']:.2g}]" if "low" in check else ""
    return f"{check['value']:.2g}{interval}"


def numbers(models: Json) -> str:
    """Return the table of differences between each file's answers and the trained model's, on real faces."""
    columns = ("largest difference", "99.9th percentile of the difference", "mean difference")
    rows = []
    for task, model in models.items():
        checks = report(task)
        for key, output in itertools.product(model["files"], (item["name"] for item in model["outputs"])):
            spread = checks[2, "", output, "spread across faces"]
            found = [checks.get((2, key, output, what)) for what in columns]
            if None not in found:
                unit = spread["unit"]
                rows.append(
                    [f"{task} {key}", f"{output}, {unit}", measured(spread), *(measured(each) for each in found)]
                )
    return table(["file", "output", "spread across faces", *columns], rows)


def losses(models: Json) -> str:
    """Return the table of each file's loss against the most exact file, on held-out faces."""
    rows = []
    for task, model in models.items():
        for (step, key, output, what), check in report(task).items():
            if step == 3 and "limit" in check and key in model["files"]:
                unit = check["unit"]
                rows.append([f"{task} {key}", output, f"{what}, {unit}", measured(check), f"{check['limit']:g}"])
    return table(["file", "output", "loss", "[95% interval]", "margin"], rows)


def shifts(models: Json) -> str:
    """Return the table of emotion accuracy (int8) on faces changed to simulate other cameras and crops."""
    model = models["emotion"]
    metrics = {f"{name}/accuracy": title for name, title in LABELLINGS.items() if name != "ferplus"}
    names = dict.fromkeys(f["split"] for f in model["figures"] if f["split"].startswith("test/"))
    # the table of accuracies has a column for it
    names.pop("test/aligned", None)
    rows = [
        [split.removeprefix("test/") if "/" in split else "as they are", *(cell(model, split, m) for m in metrics)]
        for split in ("test", *names)
    ]
    return table(["faces", *metrics.values()], rows)


TABLES = {
    "shifts": shifts,
    "numbers": numbers,
    "losses": losses,
    "summary": summary,
    "sizes": sizes,
    "keypoints": keypoints,
    "detected": detected,
    "emotion": emotion,
}


def filled(text: str, models: Json) -> str:
    """Return the text with a new table between each pair of markers."""
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
