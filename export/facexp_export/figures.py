"""Figures of an exported file, measured on it and kept in its bundle's manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp_export import manifest
from facexp_export.bundle_writer import run_onnx
from facexp_export.errors import ExportError
from facexp_export.run import read_json, write_json
from facexp_train.config import Task
from facexp_train.evaluate import Evaluation


@dataclass(frozen=True, slots=True)
class BundleModel:
    """One ONNX file of a bundle directory."""

    path: Path
    task: Task
    precision: str
    seed: int
    """The training run's, which decides the split of data that comes without one."""

    @classmethod
    def open(cls, path: Path) -> BundleModel:
        """Find the file in the manifest beside it; ExportError where there is none, or it names no such file."""
        beside = path.parent / manifest.FILE
        models = read_json(beside, "an ONNX file is evaluated in its bundle").get("models", {})
        for task, entry in models.items():
            for precision, file in entry["files"].items():
                if file["file"] == path.name:
                    if manifest.sha256(path) != file["sha256"]:
                        raise ExportError(f"{path}: is not the file that {beside} describes; export it again")
                    return cls(path, task, precision, int(entry.get("training", {}).get("config", {}).get("seed", 0)))
        raise ExportError(f"{beside}: names no file {path.name}")

    def predict(self, crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """uint8 crops (N, S, S, 1) -> float32 arrays by output name."""
        return run_onnx(self.path, crops)

    def record(self, evaluation: Evaluation) -> None:
        """Put the figures into the manifest, in the place of this file's earlier ones on the same splits."""
        beside = self.path.parent / manifest.FILE
        content = read_json(beside, "an ONNX file is evaluated in its bundle")
        entry = content["models"][self.task]
        splits = {figure.split for figure in evaluation.figures}
        kept = [f for f in entry["figures"] if f["split"] not in splits or f["model"] != self.precision]
        command = f"facexp evaluate {self.path.name} DATA --split {evaluation.split}"
        entry["figures"] = kept + [
            {
                **figure.to_dict(),
                "value": round(figure.value, 5),
                "low": round(figure.low, 5),
                "high": round(figure.high, 5),
                "model": self.precision,
                "command": command,
            }
            for figure in evaluation.figures
            # by source and by point at once stays in the report: the manifest travels with every bundle
            if not ("/" in figure.split and "/" in figure.metric)
        ]
        write_json(beside, content)
