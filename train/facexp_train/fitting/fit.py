"""The training loop: an epoch, a validation with the averaged weights, a checkpoint; then the next epoch.

A run directory holds config.json, command.txt, log.csv, curves.png (drawn at most every ten seconds, and at the end),
checkpoint.npz (everything needed to resume), best.weights.npz and answers/ (outputs for the validation faces after some
epochs); at the end also model.keras in float32, ready for export. Each file is written under another name and renamed,
so that a kill, a full disk or a loss that is not finite leaves the last complete files.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from facexp.files import write_atomically
from facexp_train.config import TrainConfig
from facexp_train.errors import DataError, TrainingError
from facexp_train.evaluation.report import draw_curves
from facexp_train.fitting.interrupts import held_interrupts
from facexp_train.fitting.milestones import answers_path, drop_answers, milestones
from facexp_train.fitting.muon import ConvolutionMuon
from facexp_train.fitting.run_directory import best_weights
from facexp_train.progress import progress_bar
from facexp_train.stored import damaged, read_arrays, write_arrays

_DRAWING_INTERVAL = 10.0
"""Least seconds before each drawing of the curves: one takes as long as an epoch of a few hundred faces."""


@dataclass(frozen=True, slots=True)
class Validation:
    """The result of an epoch on the validation split: scores by name, and outputs (N, ...) for its faces by name."""

    scores: dict[str, float]
    outputs: dict[str, NDArray[np.float32]]


class Job(Protocol):
    """What the training loop needs of a task."""

    batches: Any
    losses: Any
    monitor: str
    """The validation metric that chooses the best epoch, and stops the run when it no longer improves."""
    higher_is_better: bool

    def build(self) -> keras.Model:
        """Build a new network under the current dtype policy."""

    def begin(self, model: keras.Model) -> None:
        """Replace the random weights of a new network, if the task has others to start from."""

    def validate(self, model: keras.Model) -> Validation:
        """Return metrics on the validation split, and the outputs that they are computed from."""

    def finish(self, model: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
        """Return the final model, made from the trained one, and facts about it for the manifest."""

    def summary(self) -> dict[str, Any]:
        """Return facts about the data for the manifest."""


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Networks built inside the context compute in `name`; afterwards the policy is float32."""
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def train(
    job: Job, config: TrainConfig, out: Path, resume: bool, quiet: bool = False, tensorboard: bool = False
) -> Path:
    """Train `job` into the run directory `out` and return the path of model.keras.

    `out` must be prepared for `config`; with `resume` the run continues after its last complete epoch. `tensorboard`
    also writes the rows of log.csv into `out`/tensorboard. Ctrl-C ends the run after the current batch, or during a
    validation after the epoch is saved. Raises DataError if the weights to start from are damaged or of another
    network, and TrainingError if a file cannot be written or the loss or validation score is not finite; the files of
    the last complete epoch stay.
    """
    keras.utils.set_random_seed(config.seed)
    with dtype_policy(config.dtype):
        model = job.build()
    optimizer = _optimizer(config, len(job.batches))
    # on a CPU, XLA is two to three times slower than plain TensorFlow
    jit = "auto" if keras.backend.backend() != "tensorflow" else False
    model.compile(optimizer=optimizer, loss=job.losses, jit_compile=jit)
    optimizer.build(model.trainable_variables)

    history: list[dict[str, float]] = []
    resumed = resume and (out / "checkpoint.npz").is_file()
    if config.start_share or not resumed:
        if config.start_from:
            load_best(Path(config.start_from), model)
        else:
            job.begin(model)
    start = model.get_weights()
    if resumed:
        history = _restore(out / "checkpoint.npz", config, model, optimizer)
    sign = 1 if job.higher_is_better else -1
    drawn_at = time.perf_counter()
    with held_interrupts() as check_interrupt:
        for epoch in range(len(history), config.epochs):
            scores = [sign * row[job.monitor] for row in history]
            best = max(scores, default=-np.inf)
            if scores and config.patience and len(scores) - 1 - scores.index(best) >= config.patience:
                break
            started = time.perf_counter()
            job.batches.epoch = epoch
            bar = _ProgressBar(f"epoch {epoch + 1}/{config.epochs}", len(job.batches), quiet)
            trained = _TrainedWeights(check_interrupt)
            # the batches are shuffled already; Keras would shuffle them again, and differently in a resumed run
            logs = model.fit(
                job.batches,
                initial_epoch=epoch,
                epochs=epoch + 1,
                shuffle=False,
                verbose=0,
                callbacks=[bar, trained],
            ).history
            row = {"epoch": epoch + 1.0, **{name: float(values[-1]) for name, values in logs.items()}}
            if trained.lost_in is not None:
                bar.close("the loss is not finite")
                what = f"the loss in batch {trained.lost_in + 1} of {len(job.batches)}"
                raise _lost(what, job, config, out, history)
            row["learning_rate"] = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
            # `fit` ends by replacing the weights by their moving average, which is scored and kept; with `start_share`
            # it is the mean of that average and the starting weights
            end = model.get_weights()
            if share := config.start_share:
                end = [share * first + (1 - share) * last for first, last in zip(start, end, strict=True)]
            # needed even without changes: JAX puts the average's own arrays there, and deletes them when it predicts
            model.set_weights(end)
            validation = job.validate(model)
            row |= validation.scores
            if not np.isfinite(row[job.monitor]):
                bar.close(f"{job.monitor} is not finite")
                raise _lost(job.monitor, job, config, out, history)
            with writing(out, len(history)):
                if sign * row[job.monitor] > best:
                    write_arrays(out / "best.weights.npz", _numbered("v", model.variables))
                trained.restore()
                row["seconds"] = round(time.perf_counter() - started, 1)
                write_arrays(answers_path(out, epoch + 1), validation.outputs)
                history.append(row)
                write_arrays(out / "checkpoint.npz", _state(model, optimizer, history))
                # keep this epoch's answers too: a run that stops early may end with any epoch
                drop_answers(out, milestones(config) | {epoch + 1})
                _write_log(out / "log.csv", history)
                if time.perf_counter() - drawn_at >= _DRAWING_INTERVAL:
                    _draw(job, out, history)
                    drawn_at = time.perf_counter()
                if tensorboard:
                    _write_scalars(out / "tensorboard", row)
            bar.close(f"{job.monitor} {row[job.monitor]:.4f}, best {max(best, sign * row[job.monitor]) * sign:.4f}")
            check_interrupt()
    with writing(out, len(history)):
        # the process may have been killed between the last checkpoint and these
        drop_answers(out, milestones(config) | {len(history)})
        _write_log(out / "log.csv", history)
        _draw(job, out, history)
        return _finish(job, out, history)


@contextmanager
def writing(out: Path, epochs: int) -> Iterator[None]:
    """Turns an OSError into a TrainingError that says what is kept, `epochs` complete epochs, and how to resume."""
    try:
        yield
    except OSError as error:
        kept = (
            f"the run is kept up to epoch {epochs}: continue with --resume"
            if epochs
            else "no epoch was kept: start with --resume"
        )
        raise TrainingError(
            f"{error.filename or out}: cannot be written ({error.strerror or error}); free space or fix it; {kept}"
        ) from error


def _best_row(job: Job, history: list[dict[str, float]]) -> dict[str, float]:
    return max(history, key=lambda row: row[job.monitor] if job.higher_is_better else -row[job.monitor])


def _lost(what: str, job: Job, config: TrainConfig, out: Path, history: list[dict[str, float]]) -> TrainingError:
    """The error for a run whose loss or validation score `what` is not finite."""
    if history:
        epoch = _best_row(job, history)["epoch"]
        kept = f"{out / 'best.weights.npz'} keeps epoch {epoch:.0f}, the best; start from it"
        start = f" {_start_options(out, config)}"
    else:
        kept, start = "no epoch was kept; start again", ""
    return TrainingError(
        f"{out}: epoch {len(history) + 1}: {what} is not a finite number; {kept} with a lower rate, into another --out:"
        f"{start} --set learning_rate={config.learning_rate / 4:g}"
    )


def _optimizer(config: TrainConfig, steps: int) -> keras.Optimizer:
    warmup = round(config.warmup_epochs * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else config.learning_rate,
        decay_steps=max(1, config.epochs * steps - warmup),
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
        # the cosine ends at this share of the initial rate
        alpha=1.0 if config.schedule == "constant" else 0.0,
    )
    common: dict[str, Any] = {"weight_decay": config.weight_decay or None}
    if config.ema:
        common |= {"use_ema": True, "ema_momentum": config.ema}
    if config.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, **common)
    elif config.optimizer == "adam":
        optimizer = keras.optimizers.Adam(schedule, **common)
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


def _assign(stored: Mapping[str, NDArray[Any]], prefix: str, variables: list[Any], path: Path) -> None:
    names = sorted(name for name in stored if name.startswith(prefix))
    if len(names) != len(variables):
        raise DataError(
            f"{path}: holds {len(names)} arrays, the network has {len(variables)}; was it trained by another version?"
        )
    for name, variable in zip(names, variables, strict=True):
        if stored[name].shape != tuple(variable.shape):
            raise DataError(
                f"{path}: an array is {stored[name].shape}, the network's {tuple(variable.shape)}; was it trained with "
                "another network, or for other classes?"
            )
        variable.assign(stored[name])


def _state(model: keras.Model, optimizer: keras.Optimizer, history: list[dict[str, float]]) -> dict[str, Any]:
    arrays = _numbered("v", model.variables) | _numbered("o", optimizer.variables)
    return arrays | {"history": np.array(json.dumps(history))}


def _start_options(run: Path, config: TrainConfig) -> str:
    """The options that let a run of the configuration start with the best weights of `run`."""
    # start_from and grow exclude each other
    return f"--set start_from={shlex.quote(str(run))}{' --set grow=false' * config.grow}"


def _restore(path: Path, config: TrainConfig, model: keras.Model, optimizer: keras.Optimizer) -> list[dict[str, float]]:
    best = f"start from the best epoch, into another --out: {_start_options(path.parent, config)}"
    stored = read_arrays(path, best)
    _assign(stored, "v", model.variables, path)
    _assign(stored, "o", optimizer.variables, path)
    if "history" not in stored:
        raise damaged(path, "no history in it", best)
    history: list[dict[str, float]] = json.loads(str(stored["history"]))
    return history


def load_best(run: Path, model: keras.Model) -> None:
    """Put the weights of a run's best epoch into a network of its configuration; DataError if they do not fit."""
    path = best_weights(run)
    _assign(read_arrays(path, "train that run again, into another --out"), "v", model.variables, path)


def _draw(job: Job, out: Path, history: list[dict[str, float]]) -> None:
    draw_curves(history, out / "curves.png", job.monitor, not job.higher_is_better)


def _write_log(path: Path, history: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomically(path, text.getvalue().encode())


def _finish(job: Job, out: Path, history: list[dict[str, float]]) -> Path:
    # built again in float32: a model that was built under a mixed policy would export its casts too
    model = job.build()
    load_best(out, model)
    path = out / "model.keras"
    partial = out / "model.part.keras"
    finished, facts = job.finish(model)
    try:
        finished.save(partial)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    best = _best_row(job, history)
    summary = {
        **job.summary(),
        **facts,
        "parameters": model.count_params(),
        "epochs_run": len(history),
        "best_epoch": int(best["epoch"]),
        "validation": {name: value for name, value in best.items() if name.startswith("val_")},
        "training_seconds": round(sum(row["seconds"] for row in history)),
        "backend": keras.backend.backend(),
        "facexp": version("facexp"),
    }
    write_atomically(out / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    return path


def _write_scalars(directory: Path, row: dict[str, float]) -> None:
    """Write the row of an epoch as TensorBoard scalars."""
    import tensorflow as tf

    # a file for each epoch, so that a killed run leaves complete files of its earlier epochs
    try:
        writer = tf.summary.create_file_writer(str(directory), filename_suffix=f".epoch{row['epoch']:04.0f}")
        with writer.as_default(step=int(row["epoch"])):
            # `tf.summary.scalar` needs TensorBoard installed, which writing does not require otherwise
            summary = tf.compat.v1.Summary()
            for name, value in row.items():
                if name != "epoch":
                    summary.value.add(tag=name, simple_value=value)
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())
        writer.close()
    except tf.errors.OpError as error:
        raise OSError(None, error.message, str(directory)) from error


class _TrainedWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the weights that training continues with, because `fit` replaces them at an epoch's end.

    Ends an epoch when the loss is not finite, in the batch with the index `lost_in`; calls `check_interrupt` after each
    batch.
    """

    lost_in: int | None = None

    def __init__(self, check_interrupt: Callable[[], None]) -> None:
        super().__init__()
        self.check_interrupt = check_interrupt

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Stop if the run is interrupted or the loss is not finite."""
        self.check_interrupt()
        if logs and not np.isfinite(logs["loss"]):
            self.lost_in = batch
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Copy the weights before `fit` replaces them by their average."""
        self.values = self.model.get_weights()

    def restore(self) -> None:
        """Put the saved weights back."""
        self.model.set_weights(self.values)


class _ProgressBar(keras.callbacks.Callback):  # type: ignore[misc]
    """A progress bar on stderr, only on a terminal."""

    def __init__(self, title: str, steps: int, quiet: bool) -> None:
        super().__init__()
        self.bar = progress_bar(steps, title, "batch", quiet=quiet)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Show the running loss."""
        self.bar.update()
        if logs and batch % 10 == 0:
            self.bar.set_postfix_str(f"loss {logs['loss']:.4f}", refresh=False)

    def close(self, verdict: str) -> None:
        """End the epoch's line with the validation result."""
        self.bar.set_postfix_str(verdict)
        self.bar.close()
