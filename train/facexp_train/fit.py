"""The training loop: an epoch, a validation with the averaged weights, a checkpoint; then the next.

A run directory holds config.json, log.csv, curves.png, checkpoint.npz (everything needed to go on) and
best.weights.npz, and at the end model.keras in float32, ready for export. Each file is written beside and renamed, so a
kill at any moment leaves the last whole one.
"""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from tqdm import tqdm

from facexp_train.config import TrainConfig
from facexp_train.errors import DataError
from facexp_train.muon import ConvolutionMuon
from facexp_train.report import draw_curves


class Job(Protocol):
    """What the loop needs to know of a task."""

    batches: Any
    losses: Any
    monitor: str
    """The validation metric that chooses the epoch, and stops the run when it no longer improves."""
    higher_is_better: bool

    def build(self) -> keras.Model:
        """A new network under the current dtype policy."""

    def validate(self, model: keras.Model) -> dict[str, float]:
        """Metrics on the validation split."""

    def finish(self, model: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
        """The model to ship, made of the trained one, and facts about the making, for the manifest."""

    def summary(self) -> dict[str, Any]:
        """Facts about the data, for the manifest."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside, then rename: a reader never sees half a file."""
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(content)
    beside.replace(path)


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def train(job: Job, config: TrainConfig, out: Path, resume: bool, quiet: bool = False) -> Path:
    """Train `job` into the run directory `out` and return the path of model.keras.

    With `resume` the run goes on after its last whole epoch. DataError where `out` holds another run.
    """
    _check(out, config, resume)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.dtype)
    try:
        model = job.build()
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = _optimizer(config, len(job.batches))
    # XLA is two to three times slower than plain TensorFlow on a CPU
    jit = "auto" if keras.backend.backend() != "tensorflow" else False
    model.compile(optimizer=optimizer, loss=job.losses, jit_compile=jit)
    optimizer.build(model.trainable_variables)

    history: list[dict[str, float]] = []
    if resume and (out / "checkpoint.npz").is_file():
        history = _restore(out / "checkpoint.npz", model, optimizer)
    elif config.start_from:
        _load_best(Path(config.start_from), model)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "config.json", config.to_json().encode())
    sign = 1 if job.higher_is_better else -1
    for epoch in range(len(history), config.epochs):
        best = max((sign * row[job.monitor] for row in history), default=-np.inf)
        since = len(history) - 1 - max(range(len(history)), key=lambda e: sign * history[e][job.monitor], default=-1)
        if history and config.patience and since >= config.patience:
            break
        started = time.perf_counter()
        job.batches.epoch = epoch
        bar = _Bar(f"epoch {epoch + 1}/{config.epochs}", len(job.batches), quiet)
        trained = _Trained()
        logs = model.fit(
            job.batches, initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=[bar, trained]
        ).history
        row = {"epoch": epoch + 1.0, **{name: float(values[-1]) for name, values in logs.items()}}
        # `fit` ends by putting the moving average in the place of the weights: that is what is scored and kept
        row |= job.validate(model)
        if sign * row[job.monitor] > best:
            _write_arrays(out / "best.weights.npz", _numbered("v", model.variables))
        trained.restore()
        row["seconds"] = round(time.perf_counter() - started, 1)
        history.append(row)
        _write_arrays(out / "checkpoint.npz", _state(model, optimizer, history))
        _write_log(out / "log.csv", history)
        draw_curves(history, out / "curves.png", job.monitor)
        bar.close(f"{job.monitor} {row[job.monitor]:.4f}, best {max(best, sign * row[job.monitor]) * sign:.4f}")
    return _finish(job, config, out, history, sign)


def _check(out: Path, config: TrainConfig, resume: bool) -> None:
    path = out / "config.json"
    if path.is_file() and not resume:
        raise DataError(f"{out}: holds a run already; give --resume to go on with it, or another --out")
    if resume and not path.is_file():
        raise DataError(f"{out}: no run to resume; leave --resume out to start one")
    if resume:
        before, now = (json.loads(c.to_json()) for c in (TrainConfig.from_run(out), config))
        changed = [key for key in now if now[key] != before[key]]
        if changed:
            raise DataError(f"{path}: the run to resume was started with another {', '.join(changed)}")


def _optimizer(config: TrainConfig, steps: int) -> keras.Optimizer:
    warmup = round(config.warmup_epochs * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else config.learning_rate,
        decay_steps=max(1, config.epochs * steps - warmup),
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    common: dict[str, Any] = {"weight_decay": config.weight_decay or None}
    if config.ema:
        common |= {"use_ema": True, "ema_momentum": config.ema}
    if config.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, **common)
    elif config.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(schedule, **common)
    else:
        optimizer = ConvolutionMuon(
            schedule, adam_weight_decay=common["weight_decay"], exclude_layers=["heatmaps"], **common
        )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _numbered(prefix: str, variables: list[Any]) -> dict[str, Any]:
    return {f"{prefix}{index:04d}": keras.ops.convert_to_numpy(variable) for index, variable in enumerate(variables)}


def _assign(stored: Any, prefix: str, variables: list[Any], path: Path) -> None:
    names = sorted(name for name in stored.files if name.startswith(prefix))
    if len(names) != len(variables):
        raise DataError(
            f"{path}: holds {len(names)} arrays, the network has {len(variables)}; was it trained by another version?"
        )
    for name, variable in zip(names, variables, strict=True):
        variable.assign(stored[name])


def _state(model: keras.Model, optimizer: keras.Optimizer, history: list[dict[str, float]]) -> dict[str, Any]:
    arrays = _numbered("v", model.variables) | _numbered("o", optimizer.variables)
    return arrays | {"history": np.array(json.dumps(history))}


def _restore(path: Path, model: keras.Model, optimizer: keras.Optimizer) -> list[dict[str, float]]:
    with np.load(path, allow_pickle=False) as stored:
        _assign(stored, "v", model.variables, path)
        _assign(stored, "o", optimizer.variables, path)
        history: list[dict[str, float]] = json.loads(str(stored["history"]))
    return history


def _load_best(run: Path, model: keras.Model) -> None:
    path = run / "best.weights.npz"
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected in the --out directory of `facexp train`")
    with np.load(path, allow_pickle=False) as stored:
        _assign(stored, "v", model.variables, path)


def _write_log(path: Path, history: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomically(path, text.getvalue().encode())


def _finish(job: Job, config: TrainConfig, out: Path, history: list[dict[str, float]], sign: int) -> Path:
    # built anew in float32: a model that was made under a mixed policy would export its casts too
    model = job.build()
    _load_best(out, model)
    path = out / "model.keras"
    beside = out / "model.part.keras"
    finished, facts = job.finish(model)
    finished.save(beside)
    beside.replace(path)
    best = max(history, key=lambda row: sign * row[job.monitor])
    summary = {
        **job.summary(),
        **facts,
        "parameters": model.count_params(),
        "epochs_run": len(history),
        "best_epoch": int(best["epoch"]),
        "validation": {name: value for name, value in best.items() if name.startswith("val_")},
        "training_seconds": round(sum(row["seconds"] for row in history)),
        "backend": keras.backend.backend(),
    }
    write_atomically(out / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    return path


class _Trained(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the weights that training goes on with, which `fit` overwrites with their moving average at its end."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Copy the weights before `fit` averages them."""
        self.values = [keras.ops.convert_to_numpy(variable) for variable in self.model.trainable_variables]

    def restore(self) -> None:
        """Put them back."""
        for variable, value in zip(self.model.trainable_variables, self.values, strict=True):
            variable.assign(value)


class _Bar(keras.callbacks.Callback):  # type: ignore[misc]
    """A line of progress on stderr, only on a terminal."""

    def __init__(self, title: str, steps: int, quiet: bool) -> None:
        super().__init__()
        self.bar = tqdm(total=steps, desc=title, unit="batch", disable=True if quiet else None)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Show the running loss."""
        self.bar.update()
        if logs and batch % 10 == 0:
            self.bar.set_postfix_str(f"loss {logs['loss']:.4f}", refresh=False)

    def close(self, verdict: str) -> None:
        """End the epoch's line with the validation result."""
        self.bar.set_postfix_str(verdict)
        self.bar.close()
