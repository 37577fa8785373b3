"""manifest.json: what a bundle holds, how it must be fed, and what is known about it."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from facexp_export.errors import ExportError
from facexp_export.parity import Measured, Precision
from facexp_export.quantize import Recipe
from facexp_export.run import Json, Run, read_json
from facexp_export.tasks import INPUT_NAME

SCHEMA = 1
FILE = "manifest.json"
GOLDEN = "golden.npz"
NAME = "facexp-baseline"
TERMS = "for research and education"
"""What the published face sets allow that the shipped networks are trained on."""

_PACKAGES = ("keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime", "numpy")


def entry(
    run: Run, outputs: list[str], files: Mapping[Precision, Path], measured: list[Measured], recipe: Recipe, faces: int
) -> Json:
    """One model's part of the manifest; `files` are its ONNX files by precision, `faces` how many it was judged on."""
    task = run.task
    return {
        "files": {
            precision: {"file": path.name, "sha256": sha256(path), "bytes": path.stat().st_size}
            for precision, path in files.items()
        },
        "input": {"name": INPUT_NAME, "dtype": "uint8", "shape": ["batch", task.size, task.size, 1]},
        "outputs": [{"name": name, "dtype": "float32", "shape": ["batch", *task.shape]} for name in outputs],
        "labels": list(task.labels),
        "preprocessing": {"colour": "gray", "size": task.size, **(run.preprocessing or {})},
        "training": run.training,
        "figures": run.figures,
        "parity": {
            "against": "the Keras model, on validation faces",
            "faces": faces,
            "figures": [{**asdict(item), "value": float(f"{item.value:.4g}")} for item in measured],
            "int8": asdict(recipe),
        },
        "versions": {package: version(package) for package in _PACKAGES},
    }


def read(directory: Path) -> Json:
    """The manifest of a bundle directory, or a new one without models where there is none.

    Raises ExportError for a manifest of another schema, and for a directory that holds other things: exporting
    replaces a directory as a whole.
    """
    path = directory / FILE
    if not path.exists():
        others = [item.name for item in directory.iterdir() if not _belongs(item)] if directory.is_dir() else []
        if others or (directory.exists() and not directory.is_dir()):
            raise ExportError(
                f"{directory}: holds {others[0] if others else 'a file'} but no {FILE}; give a new directory"
            )
        return {"models": {}}
    manifest = read_json(path, "give a new directory")
    if manifest.get("schema") != SCHEMA or not isinstance(manifest.get("models"), dict):
        raise ExportError(f"{path}: schema is {manifest.get('schema')!r}, expected {SCHEMA}; give a new directory")
    return manifest


def _belongs(item: Path) -> bool:
    """Whether a file may lie in a directory that has no bundle yet: a placeholder, a package's marker, a model card."""
    return item.name.startswith(".") or item.suffix in (".py", ".md")


def write(directory: Path, models: dict[str, Any]) -> None:
    """Write manifest.json for these entries; the models stand in the order of their names."""
    manifest = {
        "schema": SCHEMA,
        "name": NAME,
        "version": version("facexp"),
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "terms": TERMS,
        "models": dict(sorted(models.items())),
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    (directory / FILE).write_text(text + "\n", encoding="utf-8")


def write_golden(directory: Path, arrays: dict[str, np.ndarray[Any, Any]], model: str) -> None:
    """Put one model's golden arrays into golden.npz beside those of the other models."""
    path = directory / GOLDEN
    kept: dict[str, np.ndarray[Any, Any]] = {}
    if path.exists():
        with np.load(path, allow_pickle=False) as old:
            kept = {name: old[name] for name in old.files if not name.startswith(f"{model}_")}
    with path.open("wb") as stream:
        np.savez_compressed(
            stream, allow_pickle=False, **kept, **{f"{model}_{name}": value for name, value in arrays.items()}
        )


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
