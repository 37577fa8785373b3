"""Writing manifest.json, golden.npz and reference.npz: the description of a bundle, and the data that prove it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facexp.arrays import read_arrays
from facexp.bundle import MANIFEST, SCHEMA, digest
from facexp.proof.device import GOLDEN, picture_answers
from facexp_export.errors import ExportError
from facexp_export.picture import drawn_picture
from facexp_export.run import Json, Run, read_json, write_json
from facexp_export.tasks import INPUT_NAME, Task

REFERENCE = "reference.npz"
"""File of a bundle that holds the trained model's outputs for real crops."""
TERMS = "for research and education"
"""The use allowed by the published face datasets that the shipped networks are trained on."""

_PACKAGES = (
    *("keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime"),
    *("ai-edge-litert", "ai-edge-quantizer", "numpy"),
)


def interface(run: Run, outputs: list[str]) -> Json:
    """Return what is needed to run the model: input, outputs, labels and preprocessing."""
    task = run.task
    return {
        "input": {"name": INPUT_NAME, "dtype": "uint8", "shape": ["batch", task.size, task.size, 1]},
        "outputs": [{"name": name, "dtype": "float32", "shape": ["batch", *task.shape]} for name in outputs],
        "labels": list(task.labels),
        "preprocessing": {"colour": "gray", "size": task.size, **(run.preprocessing or {})},
    }


def description(task: Task, known: Json) -> str:
    """Return the metadata stored in each file, as JSON text: task, version, terms and the interface."""
    about = {"task": task.name, "version": version("facexp"), "terms": TERMS}
    return json.dumps({**about, **known}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def entry(run: Run, known: Json, files: Mapping[str, Path], quantized: Json) -> Json:
    """Return one model's entry of the manifest.

    `files` are its paths by key, `known` is its interface, and `quantized` holds facts about int8.onnx.
    """
    return {
        "files": {
            key: {"file": path.name, "sha256": sha256, "bytes": size}
            for key, path in files.items()
            for sha256, size in (digest(path),)
        },
        **known,
        "training": run.training,
        "figures": run.figures,
        "quantized": quantized,
        "versions": {package: version(package) for package in _PACKAGES},
    }


def read(directory: Path) -> Json:
    """Read the manifest of a bundle directory; if there is none, return a new one without models.

    Raises ExportError for a manifest of another schema, and for a directory without a manifest that holds other files,
    because an export replaces the whole directory.
    """
    path = directory / MANIFEST
    if not path.exists():
        others = [item.name for item in directory.iterdir() if not _belongs(item)] if directory.is_dir() else []
        if others or (directory.exists() and not directory.is_dir()):
            raise ExportError(
                f"{directory}: holds {others[0] if others else 'a file'} but no {MANIFEST}; give a new directory"
            )
        return {"models": {}}
    manifest = read_json(path, "give a new directory")
    if manifest.get("schema") != SCHEMA or not isinstance(manifest.get("models"), dict):
        raise ExportError(f"{path}: schema is {manifest.get('schema')!r}, expected {SCHEMA}; give a new directory")
    return manifest


def _belongs(item: Path) -> bool:
    """Return whether a file may lie in a directory without a bundle: a placeholder, a Python module or a model card."""
    return item.name.startswith(".") or item.suffix in (".py", ".md")


def write(directory: Path, name: str, models: dict[str, Any]) -> None:
    """Write manifest.json of the bundle `name` with these models' entries, sorted by name."""
    manifest = {
        "schema": SCHEMA,
        "name": name,
        "version": version("facexp"),
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "terms": TERMS,
        "models": dict(sorted(models.items())),
    }
    write_json(directory / MANIFEST, manifest)


def write_golden(
    directory: Path, task: Task, crops: NDArray[np.uint8], answers: Mapping[str, Mapping[str, NDArray[np.float32]]]
) -> None:
    """Store drawn crops in golden.npz, with the answers of each file to them as `answers[key][output]`.

    The arrays are named TASK_input and TASK/KEY/OUTPUT, and replace the task's earlier ones.
    """
    named = {f"{task.name}/{key}/{output}": value for key, by in answers.items() for output, value in by.items()}
    _replace(directory / GOLDEN, _prefixes(task), {f"{task.name}_input": crops, **named})


def write_picture(directory: Path) -> None:
    """Store the drawn portrait in golden.npz, with the results of a complete bundle's most exact ONNX files for it.

    Raises BundleError if they do not find its face.
    """
    _replace(directory / GOLDEN, ("picture",), picture_answers(directory, drawn_picture()))


def write_reference(directory: Path, task: Task, hashes: NDArray[np.uint8], outputs: Mapping[str, Any]) -> None:
    """Store the trained model's outputs for real crops in reference.npz, with hashes of the crops instead of the crops.

    The arrays are TASK_crops, uint8 (N, 32), the SHA-256 of each crop's bytes, and TASK_OUTPUT, float32 (N, ...).
    """
    named = {f"{task.name}_{output}": value for output, value in outputs.items()}
    _replace(directory / REFERENCE, _prefixes(task), {f"{task.name}_crops": hashes, **named})


def _prefixes(task: Task) -> tuple[str, ...]:
    return f"{task.name}_", f"{task.name}/"


def _replace(path: Path, prefixes: tuple[str, ...], arrays: Mapping[str, Any]) -> None:
    """Add arrays to an npz file, replacing all arrays whose names begin with one of the prefixes."""
    kept: dict[str, Any] = {}
    if path.exists():
        kept = {name: values for name, values in read_arrays(path).items() if not name.startswith(prefixes)}
    with path.open("wb") as stream:
        np.savez_compressed(stream, **dict(sorted({**kept, **arrays}.items())))
