"""The directory of a run, held by one process at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facexp.files import write_atomically
from facexp_train.command import repeating
from facexp_train.config import TrainConfig
from facexp_train.data.emotion_data import EmotionFaces
from facexp_train.data.keypoint_data import KeypointFaces
from facexp_train.data.splits import digest_of
from facexp_train.errors import DataError, TrainingError
from facexp_train.stored import read_facts

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_KEPT = ("checkpoint.npz", "model.keras", "teacher1")
"""Results of a run; a directory without any of them can be used by another run."""


@contextmanager
def held_run_directory(config: TrainConfig, out: Path, resume: bool) -> Iterator[None]:
    """Make the directory of a run and hold it; if the run fails before it has any result, free it for another run.

    DataError if the directory holds another run, which may be still in progress, or with `resume` no run, or one with
    another configuration. TrainingError if it cannot be written.
    """
    _check(config, out, resume)
    with _locked(out):
        _begin(config, out)
        try:
            yield
        except (DataError, TrainingError) as error:
            # after a failed write the message recommends --resume, which needs these files
            if not isinstance(error.__cause__, OSError) and not any((out / name).exists() for name in _KEPT):
                for name in ("config.json", "faces.json"):
                    (out / name).unlink(missing_ok=True)
            raise


def expect_faces(faces: KeypointFaces | EmotionFaces, config: TrainConfig, out: Path, unlabelled: str = "") -> None:
    """Record the faces of a run when it starts; raise DataError if it is resumed with other faces.

    The teachers' predictions and the validation outputs are stored by the faces' positions in the data, so these must
    not change. `unlabelled` is the digest of the faces without labels that the configuration adds.
    """
    path, now = out / "faces.json", {"faces": len(faces), "digest": digest_of(faces), "unlabelled": unlabelled}
    # runs of versions before 0.9.2 have no such file, and the file of 0.9.2 has no entry for unlabelled faces
    before = read_facts(path, "delete it") if path.is_file() else {}
    changed = {key for key in now if before.get(key, now[key]) != now[key]}
    remedy = "start a new run with another --out"
    if changed == {"unlabelled"}:
        raise DataError(f"unlabelled: {config.unlabelled} has changed since the run was started; {remedy}")
    if changed:
        raise DataError(
            f"{config.data}: has changed since the run was started: {before['faces']} faces then and {len(faces)} now, "
            f"or other faces; {remedy}"
        )
    if before != now:
        write_atomically(path, (json.dumps(now) + "\n").encode())


def best_weights(run: Path) -> Path:
    """The file with the weights of a run's best epoch; DataError if there is none."""
    path = run / "best.weights.npz"
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected in the --out directory of `facexp train`")
    return path


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Make a directory and hold an exclusive lock on it inside the block; DataError if another process holds it.

    The operating system releases the lock if the process dies. On Windows nothing is locked.
    """
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
        raise DataError(f"{out}: another process trains here; wait until it ends, or use another --out") from None
    except OSError:
        # some network file systems do not support locks; the run goes on without one
        pass
    try:
        yield
    finally:
        os.close(directory)


def _check(config: TrainConfig, out: Path, resume: bool) -> None:
    path = out / "config.json"
    if path.is_file() and not resume:
        raise DataError(f"{out}: holds a run already; give --resume to continue it, or another --out")
    if resume and not path.is_file():
        raise DataError(f"{out}: no run to resume; start one without --resume")
    if resume:
        before, now = (json.loads(c.to_json()) for c in (TrainConfig.from_run(out), config))
        changed = [key for key in now if now[key] != before[key]]
        if changed:
            raise DataError(f"{path}: the run to resume was started with different settings: {', '.join(changed)}")
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
