"""The command that repeats a training run, whatever it was started with."""

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
"""The configurations that come with facexp, TASK.toml the default."""


def parsed(text: str) -> Any:
    """The value of `--set KEY=VALUE`: JSON, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def repeating(config: TrainConfig, out: Path) -> str:
    """A line for the shell that trains with the same configuration beside `out`, below the versions it ran with.

    It names every setting in which the configuration differs from the default, so that it needs no other file.
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


def _changes(before: dict[str, Any], after: dict[str, Any], place: str = "") -> list[str]:
    changes = []
    for key, value in after.items():
        if value == before[key]:
            continue
        if key in ("augmentation", "settled"):
            changes += _changes(before[key], value, f"{key}.")
        else:
            value = _absolute({key: value})[key]
            plain = isinstance(value, str) and parsed(value) == value
            changes.append(f"{place}{key}={value if plain else json.dumps(value)}")
    return changes


def _absolute(values: dict[str, Any]) -> dict[str, Any]:
    """Settings, and those of the teachers among them, with paths that mean the same from everywhere."""
    found = dict(values)
    for key, value in values.items():
        if key in ("start_from", "unlabelled") and value is not None:
            found[key] = str(Path(value).resolve())
        elif key == "teachers":
            found[key] = [_absolute(teacher) for teacher in value]
    return found
