"""The models that commands accept: a run directory of `facexp train`, or a file of a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facexp_cli.extras import require

if TYPE_CHECKING:
    from facexp_export.figures import BundleModel
    from facexp_train.config import TrainConfig
    from facexp_train.evaluation.evaluate import Predict


def require_packages(*models: Path | None) -> None:
    """Check that the packages that these models need are installed. Raises click.ClickException."""
    bundled = any(model is not None and model.is_file() for model in models)
    require("export" if bundled else "train", "tensorflow", "keras", "pandas", "sklearn", "matplotlib")


@dataclass(frozen=True, slots=True)
class Model:
    """A trained network from a run directory or a bundle.

    `config` names the dataset that it is used on. `temperatures` are the calibration temperatures of the emotion
    network's heads, by name. `bundled` is None for a run directory.
    """

    name: str
    config: TrainConfig
    predict: Predict
    temperatures: dict[str, float] | None
    bundled: BundleModel | None

    @classmethod
    def open(cls, path: Path, data: str) -> Model:
        """Open a run directory or a bundle's file, for the dataset `data`. Raises DataError, ExportError if neither."""
        from facexp_train import run
        from facexp_train.config import TrainConfig

        if path.is_file():
            from facexp_export.figures import BundleModel

            bundled = BundleModel.open(path)
            config = TrainConfig(bundled.task, data, classes=bundled.classes, seed=bundled.seed)
            return cls(path.name, config, bundled.predict, bundled.temperatures, bundled)
        config = TrainConfig.from_run(path).with_data(data)
        return cls(path.resolve().name, config, run.load_predict(path), run.temperatures(path), None)


def same_task(first: Model, second: Model) -> None:
    """Check that two models have the same task and classes. Raises click.UsageError."""
    for what in ("task", "classes"):
        values = getattr(first.config, what), getattr(second.config, what)
        if values[0] != values[1]:
            raise click.UsageError(f"{first.name} and {second.name} differ in their {what}: {values[0]}, {values[1]}")
