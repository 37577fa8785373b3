"""The directory of a run, taken by one run at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facexp.files import write_atomically
from facexp_train.command import repeating
from facexp_train.config import TrainConfig
from facexp_train.emotion_data import EmotionFaces
from facexp_train.errors import DataError, TrainingError
from facexp_train.keypoint_data import KeypointFaces
from facexp_train.splits import digest_of
from facexp_train.stored import read_facts

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_KEPT = ("checkpoint.npz", "model.keras", "teacher1")
"""One of these lies in the directory of a run that was worth something."""


@contextmanager
def taken(config: TrainConfig, out: Path, resume: bool) -> Iterator[None]:
    """Make the directory of a run, and leave it free for another one where the run fails before anything is kept.

    DataError where it holds another run, which may be under way, or with `resume` none; TrainingError where it cannot
    be written.
    """
    _check(config, out, resume)
    with _locked(out):
        _begin(config, out)
        try:
            yield
        except (DataError, TrainingError) as error:
            # where a file could not be written, the run starts with --resume, as the message says
            if not isinstance(error.__cause__, OSError) and not any((out / name).exists() for name in _KEPT):
                for name in ("config.json", "faces.json"):
                    (out / name).unlink(missing_ok=True)
            raise


def expect_faces(faces: KeypointFaces | EmotionFaces, config: TrainConfig, out: Path, unlabelled: str = "") -> None:
    """Note down which faces a run has begun with; DataError where it is to go on with others.

    What teachers said of each face, and what was answered to each, is kept by its number. `unlabelled`: the digest of
    the faces that the configuration adds.
    """
    path, now = out / "faces.json", {"faces": len(faces), "digest": digest_of(faces), "unlabelled": unlabelled}
    # runs of versions before 0.9.2 have no such file, and that one's does not tell of unlabelled faces
    before = read_facts(path, "delete it") if path.is_file() else {}
    changed = {key for key in now if before.get(key, now[key]) != now[key]}
    other = "start another one, with another --out"
    if changed == {"unlabelled"}:
        raise DataError(f"unlabelled: {config.unlabelled} has changed since the run was started; {other}")
    if changed:
        raise DataError(
            f"{config.data}: has changed since the run was started: {before['faces']} faces then and {len(faces)} now, "
            f"or others; {other}"
        )
    if before != now:
        write_atomically(path, (json.dumps(now) + "\n").encode())


def best_weights(run: Path) -> Path:
    """The weights of a run's best epoch; DataError where there are none."""
    path = run / "best.weights.npz"
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected in the --out directory of `facexp train`")
    return path


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Make a directory and hold it, as long as the process lives; DataError where another run holds it."""
    with _written(out):
        (out / "answers").mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    directory = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(directory)
        raise DataError(f"{out}: another process trains here; wait for its end, or give another --out") from None
    except OSError:
        # some network drives lock nothing
        pass
    try:
        yield
    finally:
        os.close(directory)


def _check(config: TrainConfig, out: Path, resume: bool) -> None:
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
    if config.start_from and not resume:
        best_weights(Path(config.start_from))


def _begin(config: TrainConfig, out: Path) -> None:
    with _written(out):
        write_atomically(out / "config.json", config.to_json().encode())
        write_atomically(out / "command.txt", repeating(config, out).encode())


@contextmanager
def _written(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(f"{error.filename or out}: cannot be written ({error.strerror or error})") from error
