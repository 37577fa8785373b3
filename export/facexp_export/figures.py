"""Figures of an exported file, measured on it and kept in its bundle's manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facexp.analyzer import Analyzer
from facexp.bundle import MANIFEST, EmotionSpec, ModelSpec, digest, load_models, read_manifest
from facexp.detector import Box
from facexp.session import BACKENDS, Session
from facexp_export.errors import ExportError
from facexp_export.run import seed_of, write_json
from facexp_train.config import Task
from facexp_train.evaluate import Evaluation, Locate


@dataclass(frozen=True, slots=True)
class BundleModel:
    """One file of a bundle directory."""

    path: Path
    task: Task
    key: str
    seed: int
    """The training run's, which decides the split of data that comes without one."""
    classes: list[str]
    """The emotion network's labels, none for the keypoints."""
    temperatures: dict[str, float] | None
    """What the graph divides its heads' logits by, None where it does not."""

    @classmethod
    def open(cls, path: Path) -> BundleModel:
        """Find the file in the manifest beside it; ExportError where it names no such file, BundleError as `Bundle`."""
        beside = path.parent / MANIFEST
        if not beside.is_file():
            raise ExportError(f"{beside}: no such file; a file is evaluated in its bundle")
        for model in load_models(path.parent):
            for key, file in model.files.items():
                if file.file == path.name:
                    if digest(path)[0] != file.sha256:
                        raise ExportError(f"{path}: is not the file that {beside} describes; export it again")
                    task: Task = "emotion" if isinstance(model, EmotionSpec) else "keypoints"
                    classes = list(model.labels) if task == "emotion" else []
                    seed = seed_of(model.training, beside)
                    return cls(path, task, key, seed, classes, model.training.get("temperatures"))
        raise ExportError(f"{beside}: names no file {path.name}")

    def predict(self, crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """uint8 crops (N, S, S, 1) -> float32 arrays by output name."""
        return Session(self.path.read_bytes(), self._spec(), self.key).run(crops)

    def product(self) -> Analyzer:
        """The product itself, with this file in it; the bundle must be complete."""
        precision, _, form = self.key.rpartition(".")
        backend = next(name for name, runs in BACKENDS.items() if runs == form)
        # the other network may not have this precision
        exact = self.key == self._spec().exact(form)
        return Analyzer("cpu", bundle=self.path.parent, backend=backend, precision="exact" if exact else precision)

    def complete(self) -> bool:
        """Whether the bundle holds both networks."""
        return {model.name for model in load_models(self.path.parent)} >= {"keypoints", "emotion"}

    def locate(self) -> Locate:
        """The product's points: detector, framing and keypoints."""
        analyzer = self.product()

        def locate(image: NDArray[np.uint8], inside: tuple[float, float]) -> NDArray[np.float32] | None:
            holding = [face for face in analyzer.analyze(image) if _distance(face.box, inside) < 1]
            return min(holding, key=lambda face: _distance(face.box, inside)).keypoints if holding else None

        return locate

    def record(self, evaluation: Evaluation, framing: str = "jitter") -> None:
        """Put the figures into the manifest, in the place of this file's earlier ones."""
        manifest = read_manifest(self.path.parent)
        entry = manifest.child("models").child(self.task).value
        command = f"facexp evaluate {self.path.name} DATA --split {evaluation.split}"
        if framing != "jitter":
            command += f" --framing {framing}"
        # figures that the same command gave before, whether or not it gives them again
        kept = [f for f in entry.get("figures", []) if (f.get("model"), f.get("command")) != (self.key, command)]
        entry["figures"] = kept + [
            {
                **figure.to_dict(),
                "value": round(figure.value, 5),
                "low": round(figure.low, 5),
                "high": round(figure.high, 5),
                "model": self.key,
                "command": command,
            }
            for figure in evaluation.figures
            # by source and by point at once stays in the report: the manifest travels with every bundle
            if not ("/" in figure.split and figure.metric.startswith("error_interocular/"))
        ]
        write_json(manifest.file, manifest.value)

    def _spec(self) -> ModelSpec:
        (spec,) = (model for model in load_models(self.path.parent) if model.name == self.task)
        return spec


def _distance(box: Box, point: tuple[float, float]) -> float:
    """How far a point lies from a box's middle; 1 is the border."""
    x, y, width, height = box
    return max(abs(point[0] - x - width / 2) / (width / 2), abs(point[1] - y - height / 2) / (height / 2))
