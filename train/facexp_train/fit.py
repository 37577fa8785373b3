"""The training loop: an epoch, a validation with the averaged weights, a checkpoint; then the next.

A run directory holds config.json, command.txt, log.csv, curves.png (drawn anew every ten seconds at most, and at the
end), checkpoint.npz (everything needed to go on), best.weights.npz and answers/, what was said to the validation faces
in some epochs; at the end model.keras in float32, ready for export. Each file is written beside and renamed, so a kill
at any moment, a full disk and a loss that is no number leave the last whole ones.
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
from facexp_train.interrupts import held_interrupts
from facexp_train.milestones import answers_path, drop_answers, milestones
from facexp_train.muon import ConvolutionMuon
from facexp_train.progress import progress_bar
from facexp_train.report import draw_curves
from facexp_train.run_directory import best_weights
from facexp_train.stored import damaged, read_arrays, write_arrays

_PAUSE = 10.0
"""Seconds between two pictures of the curves: drawing one takes as long as an epoch of a few hundred faces."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What an epoch gave on the validation split: scores by name, and the outputs (N, ...) by name for its faces."""

    scores: dict[str, float]
    answers: dict[str, NDArray[np.float32]]


class Job(Protocol):
    """What the loop needs to know of a task."""

    batches: Any
    losses: Any
    monitor: str
    """The validation metric that chooses the epoch, and stops the run when it no longer improves."""
    higher_is_better: bool

    def build(self) -> keras.Model:
        """A new network under the current dtype policy."""

    def begin(self, model: keras.Model) -> None:
        """Give a new network other weights than random ones, where the task knows some."""

    def validate(self, model: keras.Model) -> Validation:
        """Metrics on the validation split, and the answers that they come from."""

    def finish(self, model: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
        """The model to ship, made of the trained one, and facts about the making, for the manifest."""

    def summary(self) -> dict[str, Any]:
        """Facts about the data, for the manifest."""


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Networks built inside compute in `name`, float32 again after it."""
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def train(
    job: Job, config: TrainConfig, out: Path, resume: bool, quiet: bool = False, tensorboard: bool = False
) -> Path:
    """Train `job` into the run directory `out` and return the path of model.keras.

    `out` has been prepared for `config`; with `resume` the run goes on after its last whole epoch. `tensorboard` writes
    the rows of log.csv into `out`/tensorboard as well. Ctrl-C ends the run after a batch, or once the epoch is kept
    that was being validated. DataError where the weights to start from are damaged or another network's; TrainingError
    where a file cannot be written or the loss or the validation score is no number: what the last whole epoch left
    stays.
    """
    keras.utils.set_random_seed(config.seed)
    with dtype_policy(config.dtype):
        model = job.build()
    optimizer = _optimizer(config, len(job.batches))
    # XLA is two to three times slower than plain TensorFlow on a CPU
    jit = "auto" if keras.backend.backend() != "tensorflow" else False
    model.compile(optimizer=optimizer, loss=job.losses, jit_compile=jit)
    optimizer.build(model.trainable_variables)

    history: list[dict[str, float]] = []
    goes_on = resume and (out / "checkpoint.npz").is_file()
    if config.start_share or not goes_on:
        if config.start_from:
            load_best(Path(config.start_from), model)
        else:
            job.begin(model)
    start = model.get_weights()
    if goes_on:
        history = _restore(out / "checkpoint.npz", config, model, optimizer)
    sign = 1 if job.higher_is_better else -1
    drawn = -np.inf
    with held_interrupts() as check_interrupt:
        for epoch in range(len(history), config.epochs):
            scores = [sign * row[job.monitor] for row in history]
            best = max(scores, default=-np.inf)
            if scores and config.patience and len(scores) - 1 - scores.index(best) >= config.patience:
                break
            started = time.perf_counter()
            job.batches.epoch = epoch
            bar = _Bar(f"epoch {epoch + 1}/{config.epochs}", len(job.batches), quiet)
            trained = _Trained(check_interrupt)
            # the batches shuffle themselves; Keras would do so once more, and in a resumed run in another way
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
                bar.close("the loss is no number")
                what = f"the loss in batch {trained.lost_in + 1} of {len(job.batches)}"
                raise _lost(what, job, config, out, history)
            row["learning_rate"] = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
            # `fit` ends by putting the moving average in the place of the weights: that is what is scored and kept, and
            # what lies between it and the start, where the configuration asks for that
            end = model.get_weights()
            if share := config.start_share:
                end = [share * first + (1 - share) * last for first, last in zip(start, end, strict=True)]
            # also as they are: JAX has put the average's own arrays there, and gives them up when it predicts
            model.set_weights(end)
            validation = job.validate(model)
            row |= validation.scores
            if not np.isfinite(row[job.monitor]):
                bar.close(f"{job.monitor} is no number")
                raise _lost(job.monitor, job, config, out, history)
            with writing(out, len(history)):
                if sign * row[job.monitor] > best:
                    write_arrays(out / "best.weights.npz", _numbered("v", model.variables))
                trained.restore()
                row["seconds"] = round(time.perf_counter() - started, 1)
                write_arrays(answers_path(out, epoch + 1), validation.answers)
                history.append(row)
                write_arrays(out / "checkpoint.npz", _state(model, optimizer, history))
                # a run that stops early ends in an epoch that nobody could foresee
                drop_answers(out, milestones(config) | {epoch + 1})
                _write_log(out / "log.csv", history)
                if time.perf_counter() - drawn >= _PAUSE:
                    _draw(job, out, history)
                    drawn = time.perf_counter()
                if tensorboard:
                    _write_scalars(out / "tensorboard", row)
            bar.close(f"{job.monitor} {row[job.monitor]:.4f}, best {max(best, sign * row[job.monitor]) * sign:.4f}")
            check_interrupt()
    with writing(out, len(history)):
        # a kill may have come between the last checkpoint and these
        drop_answers(out, milestones(config) | {len(history)})
        _write_log(out / "log.csv", history)
        _draw(job, out, history)
        return _finish(job, out, history)


@contextmanager
def writing(out: Path, epochs: int) -> Iterator[None]:
    """Says what a run whose files cannot be written has kept, and how it goes on; `epochs` are those that are whole."""
    try:
        yield
    except OSError as error:
        kept = (
            f"the run is kept up to epoch {epochs}: go on with --resume"
            if epochs
            else "no epoch was kept: start with --resume"
        )
        raise TrainingError(
            f"{error.filename or out}: cannot be written ({error.strerror or error}); make room or mend it; {kept}"
        ) from error


def _best_row(job: Job, history: list[dict[str, float]]) -> dict[str, float]:
    return max(history, key=lambda row: row[job.monitor] if job.higher_is_better else -row[job.monitor])


def _lost(what: str, job: Job, config: TrainConfig, out: Path, history: list[dict[str, float]]) -> TrainingError:
    """The error for a run whose numbers have run away."""
    if history:
        epoch = _best_row(job, history)["epoch"]
        kept = f"{out / 'best.weights.npz'} keeps epoch {epoch:.0f}, the best; start from it"
        start = f" {_going_on(out, config)}"
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
        # the cosine ends at this part of the rate
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


def _going_on(run: Path, config: TrainConfig) -> str:
    """What lets a run of the configuration start with another one's best weights."""
    # weights come from there, or grow from a teacher
    return f"--set start_from={shlex.quote(str(run))}{' --set grow=false' * config.grow}"


def _restore(path: Path, config: TrainConfig, model: keras.Model, optimizer: keras.Optimizer) -> list[dict[str, float]]:
    best = f"start from the best epoch, into another --out: {_going_on(path.parent, config)}"
    stored = read_arrays(path, best)
    _assign(stored, "v", model.variables, path)
    _assign(stored, "o", optimizer.variables, path)
    if "history" not in stored:
        raise damaged(path, "no history in it", best)
    history: list[dict[str, float]] = json.loads(str(stored["history"]))
    return history


def load_best(run: Path, model: keras.Model) -> None:
    """Put the weights of a run's best epoch into a network of its making; DataError where they do not fit."""
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
    # built anew in float32: a model that was made under a mixed policy would export its casts too
    model = job.build()
    load_best(out, model)
    path = out / "model.keras"
    beside = out / "model.part.keras"
    finished, facts = job.finish(model)
    try:
        finished.save(beside)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
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
    """The row of an epoch as TensorBoard's scalars."""
    import tensorflow as tf

    # a file for each epoch: a run that is killed leaves none that is half written
    try:
        writer = tf.summary.create_file_writer(str(directory), filename_suffix=f".epoch{row['epoch']:04.0f}")
        with writer.as_default(step=int(row["epoch"])):
            # `tf.summary.scalar` wants TensorBoard installed, which only who looks at the logs needs
            summary = tf.compat.v1.Summary()
            for name, value in row.items():
                if name != "epoch":
                    summary.value.add(tag=name, simple_value=value)
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())
        writer.close()
    except tf.errors.OpError as error:
        raise OSError(None, error.message, str(directory)) from error


class _Trained(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the weights that training goes on with, in whose place what is scored stands at an epoch's end.

    Ends an epoch whose loss is no longer a finite number, and says in which batch that was; calls `check_interrupt`
    after each batch.
    """

    lost_in: int | None = None

    def __init__(self, check_interrupt: Callable[[], None]) -> None:
        super().__init__()
        self.check_interrupt = check_interrupt

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Stop where nothing more can be learnt, or somebody wants it."""
        self.check_interrupt()
        if logs and not np.isfinite(logs["loss"]):
            self.lost_in = batch
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Copy the weights before `fit` averages them."""
        self.values = self.model.get_weights()

    def restore(self) -> None:
        """Put them back."""
        self.model.set_weights(self.values)


class _Bar(keras.callbacks.Callback):  # type: ignore[misc]
    """A line of progress on stderr, only on a terminal."""

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
