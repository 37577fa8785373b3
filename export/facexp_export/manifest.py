"""manifest.json: what a bundle holds, how it must be fed, and what is known about it."""

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
from facexp.proof_device import GOLDEN, picture_answers
from facexp_export.errors import ExportError
from facexp_export.picture import drawn_picture
from facexp_export.run import Json, Run, read_json, write_json
from facexp_export.tasks import INPUT_NAME, Task

REFERENCE = "reference.npz"
TERMS = "for research and education"
"""What the published face sets allow that the shipped networks are trained on."""

_PACKAGES = (
    *("keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime"),
    *("ai-edge-litert", "ai-edge-quantizer", "numpy"),
)


def interface(run: Run, outputs: list[str]) -> Json:
    """What whoever runs the model must know: input, outputs, labels and preprocessing."""
    task = run.task
    return {
        "input": {"name": INPUT_NAME, "dtype": "uint8", "shape": ["batch", task.size, task.size, 1]},
        "outputs": [{"name": name, "dtype": "float32", "shape": ["batch", *task.shape]} for name in outputs],
        "labels": list(task.labels),
        "preprocessing": {"colour": "gray", "size": task.size, **(run.preprocessing or {})},
    }


def description(task: Task, known: Json) -> str:
    """What each file says of itself, as JSON text: the interface, with task, version and terms."""
    about = {"task": task.name, "version": version("facexp"), "terms": TERMS}
    return json.dumps({**about, **known}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def entry(run: Run, known: Json, files: Mapping[str, Path], quantized: Json) -> Json:
    """One model's part of the manifest: `files` by key, `known` its interface, `quantized` facts about int8.onnx."""
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
    """The manifest of a bundle directory, or a new one without models where there is none.

    Raises ExportError for a manifest of another schema, and for a directory that holds other things: exporting
    replaces a directory as a whole.
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
    """Whether a file may lie in a directory that has no bundle yet: a placeholder, a package's marker, a model card."""
    return item.name.startswith(".") or item.suffix in (".py", ".md")


def write(directory: Path, name: str, models: dict[str, Any]) -> None:
    """Write manifest.json for these entries of the bundle `name`; the models stand in the order of their names."""
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
    """Put the crops that a bundle carries, and what each file answers to them, into golden.npz: `answers[key][output]`.

    The arrays are TASK_input and TASK/KEY/OUTPUT.
    """
    named = {f"{task.name}/{key}/{output}": value for key, by in answers.items() for output, value in by.items()}
    _add(directory / GOLDEN, _of(task), {f"{task.name}_input": crops, **named})


def write_picture(directory: Path) -> None:
    """Put the drawn portrait, and what a whole bundle's most exact ONNX files make of it, into its golden.npz.

    BundleError where they do not find its face.
    """
    _add(directory / GOLDEN, ("picture",), picture_answers(directory, drawn_picture()))


def write_reference(directory: Path, task: Task, hashes: NDArray[np.uint8], outputs: Mapping[str, Any]) -> None:
    """Put what the trained model answers to real crops into reference.npz, without the crops, with their hashes.

    The arrays are TASK_crops (N, 32) uint8, the SHA-256 of each crop's bytes, and TASK_OUTPUT (N, ...) float32.
    """
    named = {f"{task.name}_{output}": value for output, value in outputs.items()}
    _add(directory / REFERENCE, _of(task), {f"{task.name}_crops": hashes, **named})


def _of(task: Task) -> tuple[str, ...]:
    return f"{task.name}_", f"{task.name}/"


def _add(path: Path, prefixes: tuple[str, ...], arrays: Mapping[str, Any]) -> None:
    """Arrays into an npz, in the place of those whose names begin with one of the prefixes; the others stay."""
    kept: dict[str, Any] = {}
    if path.exists():
        kept = {name: values for name, values in read_arrays(path).items() if not name.startswith(prefixes)}
    with path.open("wb") as stream:
        np.savez_compressed(stream, **dict(sorted({**kept, **arrays}.items())))
