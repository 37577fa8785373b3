"""Evaluation of one exported file; its figures are stored in the bundle's manifest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
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
from facexp_train.evaluation.evaluate import Evaluation, Locate


@dataclass(frozen=True)
class BundleModel:
    """One file of a bundle directory."""

    path: Path
    key: str
    """Key of the file in the manifest, such as "int8.onnx"."""
    spec: ModelSpec
    """The manifest's entry of the network, as it was when the file was opened."""
    seed: int
    """The training run's seed, which determines the split of data that comes without one."""

    @classmethod
    def open(cls, path: Path) -> BundleModel:
        """Find a file's entry in the manifest of its directory.

        Raises ExportError if there is no manifest, or none that describes this file; BundleError as `Bundle` does.
        """
        manifest = path.parent / MANIFEST
        if not manifest.is_file():
            raise ExportError(f"{manifest}: no such file; a model file is evaluated in its bundle's directory")
        for model in load_models(path.parent):
            for key, file in model.files.items():
                if file.file == path.name:
                    if digest(path)[0] != file.sha256:
                        raise ExportError(f"{path}: is not the file that {manifest} describes; export it again")
                    return cls(path, key, model, seed_of(model.training, manifest))
        raise ExportError(f"{manifest}: names no file {path.name}")

    @property
    def task(self) -> Task:
        """The task of the file's network."""
        return "emotion" if isinstance(self.spec, EmotionSpec) else "keypoints"

    @property
    def classes(self) -> list[str]:
        """The emotion network's labels; empty for the keypoint network."""
        return list(self.spec.labels) if self.task == "emotion" else []

    @property
    def temperatures(self) -> dict[str, float] | None:
        """The temperatures by which the graph divides the logits, by head; None if it does not."""
        temperatures: dict[str, float] | None = self.spec.training.get("temperatures")
        return temperatures

    @cached_property
    def _session(self) -> Session:
        return Session(self.path.read_bytes(), self.spec, self.key)

    def predict(self, crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Run the file on uint8 crops (N, S, S, 1); return float32 arrays by output name."""
        return self._session.run(crops)

    def analyzer(self) -> Analyzer:
        """Return an Analyzer that uses this file; the bundle must be complete."""
        precision, _, form = self.key.rpartition(".")
        backend = next(name for name, runs in BACKENDS.items() if runs == form)
        # "exact" lets the other network, which may lack this precision, use its own most exact file
        exact = self.key == self.spec.most_exact_key(form)
        return Analyzer("cpu", bundle=self.path.parent, backend=backend, precision="exact" if exact else precision)

    def complete(self) -> bool:
        """Return whether the bundle holds both networks."""
        return {model.name for model in load_models(self.path.parent)} >= {"keypoints", "emotion"}

    def locate(self) -> Locate:
        """Return a function that finds keypoints as the product does: with detector, framing and keypoint network.

        It takes an image and a point (x, y) inside a face. It returns the keypoints of the detected face whose box has
        its centre closest to that point, relative to the box, or None if no box contains the point.
        """
        analyzer = self.analyzer()

        def locate(image: NDArray[np.uint8], inside: tuple[float, float]) -> NDArray[np.float32] | None:
            matches = [face for face in analyzer.analyze(image) if _distance(face.box, inside) < 1]
            return min(matches, key=lambda face: _distance(face.box, inside)).keypoints if matches else None

        return locate

    def record(self, evaluation: Evaluation, framing: str = "jitter") -> None:
        """Store the figures in the manifest, replacing those that the same command gave for this file before."""
        manifest = read_manifest(self.path.parent)
        entry = manifest.child("models").child(self.task).value
        command = f"facexp evaluate {self.path.name} DATA --split {evaluation.split}"
        if framing != "jitter":
            command += f" --framing {framing}"
        # drops all figures of the same command, even those that it no longer gives
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
            # errors by source and point are left to the evaluation's report, to keep the manifest small
            if not ("/" in figure.split and figure.metric.startswith("error_interocular/"))
        ]
        write_json(manifest.file, manifest.value)


def _distance(box: Box, point: tuple[float, float]) -> float:
    """Return the distance of a point from the centre of a box, relative to the box: 1 on its border."""
    x, y, width, height = box
    return max(abs(point[0] - x - width / 2) / (width / 2), abs(point[1] - y - height / 2) / (height / 2))
