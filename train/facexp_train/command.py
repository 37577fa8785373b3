"""The command that repeats a training run, however the run was configured."""

from __future__ import annotations

import json
import platform
import shlex
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from facexp_train.config import TrainConfig
from facexp_train.stored import read_toml

CONFIGS = Path(str(files("facexp_train"))) / "configs"
"""Directory of the configurations that come with facexp; TASK.toml is the default of a task."""


def parsed(text: str) -> Any:
    """Return the value of `--set KEY=VALUE`: parsed as JSON, or the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def repeating(config: TrainConfig, out: Path) -> str:
    """Return a shell command that trains with the same configuration into `out`-again.

    The line above it is a comment with the versions that the run used. The command sets every value that differs from
    the task's default configuration, so that it needs no other configuration file.
    """
    words = ["facexp", "train", config.task, str(Path(config.data).resolve())]
    if config.votes is not None:
        words += ["--votes", str(Path(config.votes).resolve())]
    words += ["--out", f"{out.resolve()}-again"]
    common = {"task": config.task, "data": config.data, "votes": config.votes}
    usual = TrainConfig.from_dict(read_toml(CONFIGS / f"{config.task}.toml") | common, "")
    for change in _changes(asdict(usual), asdict(config)):
        words += ["--set", change]
    versions = ", ".join(f"{name} {version(name)}" for name in ("facexp", "keras", "tensorflow"))
    return f"# {versions}, Python {platform.python_version()}\n{shlex.join(words)}\n"


def _changes(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """KEY=VALUE for each setting of `after` that differs from `before`."""
    changes = []
    for key, value in after.items():
        if value == before[key]:
            continue
        if key in ("augmentation", "settled"):
            changes += _changes(before[key], value, f"{key}.")
        else:
            value = _absolute({key: value})[key]
            plain = isinstance(value, str) and parsed(value) == value
            changes.append(f"{prefix}{key}={value if plain else json.dumps(value)}")
    return changes


def _absolute(values: dict[str, Any]) -> dict[str, Any]:
    """The settings, also those of the teachers among them, with absolute paths."""
    found = dict(values)
    for key, value in values.items():
        if key in ("start_from", "unlabelled") and value is not None:
            found[key] = str(Path(value).resolve())
        elif key == "teachers":
            found[key] = [_absolute(teacher) for teacher in value]
    return found
