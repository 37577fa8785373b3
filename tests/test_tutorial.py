"""docs/tutorial.md is walked from end to end: its files are saved, its commands typed, on faces that are drawn here."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

import drawn
from facexp_cli.main import COMMANDS

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"
BIN = Path(sys.executable).parent
OWN = {"0": "neutral", "1": "sad", "2": "surprise"}
"""Which expression the folders of "drivers" show: awake, drowsy, yawning."""


class Step(NamedTuple):
    """A block of the tutorial: the commands to run, or the file to save first."""

    file: str
    text: str


def steps() -> list[Step]:
    """The fenced blocks behind `run` and `file: NAME`, in order."""
    found = re.findall(r"<!-- (?:run|file: (\S+)) -->\n```\w+\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    return [Step(file, text) for file, text in found]


def run(line: str, home: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(home / "cache"),
    }
    done = subprocess.run(["bash", "-c", line], cwd=home, capture_output=True, text=True, timeout=1200, env=environment)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_every_command_of_the_tutorial_exists() -> None:
    """Guards the walk below, which takes minutes to come to a command that is not there."""
    names = re.findall(r"^facexp ([a-z]+)", "".join(step.text for step in steps() if not step.file), re.MULTILINE)
    assert names
    assert set(names) <= set(COMMANDS)


@pytest.mark.slow
def test_the_way_from_the_download_to_a_bundle_of_ones_own(tmp_path: Path) -> None:
    """Guards the whole way: Kaggle's files as they are, each command as it stands, labels of one's own at the end."""
    drawn.write_training(tmp_path / "training.csv", 680)
    drawn.write_fer2013(tmp_path / "fer2013.csv", 700, 520)
    drawn.write_folders(tmp_path / "drivers", OWN, 600, 520)
    cv2.imwrite(str(tmp_path / "photo.jpg"), drawn.photo("surprise", np.random.default_rng(11)))
    seen = {}
    for step in steps():
        if step.file:
            (tmp_path / step.file).write_text(step.text)
            continue
        for line in step.text.splitlines():
            run(line, tmp_path)
        if (manifest := tmp_path / "models" / "manifest.json").is_file():
            models = json.loads(manifest.read_text())["models"]
            seen[len(models["emotion"]["labels"])] = models["emotion"]
    assert sorted(seen) == [3, 7]
    assert seen[3]["labels"] == ["awake", "drowsy", "yawning"]
    assert cv2.imread(str(tmp_path / "seen" / "photo.jpg")).shape == (480, 640, 3)
    (row,) = csv.DictReader((tmp_path / "faces.csv").open())
    assert [name for name in row if name.startswith("prob_")] == ["prob_awake", "prob_drowsy", "prob_yawning"]
    # chance is a seventh and a third: networks that learned nothing would make every step above pass
    accuracy = {
        name: json.loads((tmp_path / "runs" / name / "summary.json").read_text()) for name in ("emotion", "drivers")
    }
    assert accuracy["emotion"]["validation"]["val_accuracy"] > 2 / 7
    assert accuracy["drivers"]["validation"]["val_accuracy"] > 2 / 3
