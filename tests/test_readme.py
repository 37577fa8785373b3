"""Every example in the README is run, on small stand-ins for the user's files."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import drawn

README = Path(__file__).parents[1] / "README.md"
BIN = Path(sys.executable).parent
UNCHANGED = [
    f"augmentation.{change}=0"
    for change in ("rotation", "brightness", "contrast", "gamma", "noise", "blur", "erasing", "shrink", "jpeg")
]
"""Faces are moved, scaled and mirrored alone, so that small networks learn within a few passes."""
SHORT = ["settle_epochs=0", "ema=0.9", "learning_rate=0.01", "network.stem=8", "network.blocks=1"]
SMALL = {
    "keypoints": [*SHORT, *UNCHANGED, "epochs=4", "batch_size=8", "network.stages=[8,16,32]"],
    "emotion": [
        *SHORT,
        *UNCHANGED,
        *("teachers=[]", "epochs=8", "batch_size=8", "network.stages=[8,16,32]", "augmentation.mixup=0"),
    ],
}
RECIPE = """\
[files]
keys = ["float32.onnx", "int8.onnx"]
[calibration]
faces = 512
[verification]
faces = 512
[tolerances]
rounded_mean_spread = 0.2
[margins]
accuracy_points = 5.0
rmse_px = 1.0
"""
"""Two files of the seven (tests/export has all), and what a few hundred drawings and such networks can keep to."""


def examples(tag: str) -> list[str]:
    """The fenced blocks that follow a comment of this tag."""
    return re.findall(rf"<!-- {tag} -->\n```\w+\n(.*?)```", README.read_text(), re.DOTALL)


def run(line: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(home / "cache"),
    }
    return subprocess.run(["bash", "-c", line], cwd=home, capture_output=True, text=True, timeout=400, env=environment)


@pytest.fixture
def home(tmp_path: Path, astronaut: np.ndarray) -> Path:
    """A folder with the names that the README uses."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "crops").mkdir()
    cv2.imwrite(str(tmp_path / "photo.jpg"), astronaut)
    cv2.imwrite(str(tmp_path / "photos" / "one.jpg"), astronaut)
    cv2.imwrite(str(tmp_path / "crops" / "face.png"), astronaut[0:220, 120:330])
    (tmp_path / "names.txt").write_text("# one\nphoto.jpg\n")
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (512, 512))
    for _ in range(6):
        writer.write(astronaut)
    writer.release()
    return tmp_path


def test_command_lines(home: Path) -> None:
    commands, *_ = examples("run")
    for line in commands.splitlines():
        done = run(line, home)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    records = [json.loads(line) for line in (home / "faces.jsonl").read_text().splitlines()]
    assert [record["source"] for record in records] == ["photos/one.jpg"] + ["clip.mp4"] * 6
    assert all(len(record["faces"]) == 1 for record in records)
    assert len(pd.read_csv(home / "faces.csv")) == 1
    assert any((home / "out").rglob("*.mp4"))


def test_the_record_in_the_readme_has_the_fields_of_a_real_one(home: Path) -> None:
    text = re.search(r"```json\n(.*?)```", README.read_text(), re.DOTALL)
    assert text
    shown = set(re.findall(r'"([a-z_]+)":', text[1]))
    record = json.loads(run("facexp-infer clip.mp4", home).stdout.splitlines()[0])
    face = record["faces"][0]
    real = {*record, *record["ms"], *face, *face["emotion"]}
    assert real <= shown
    assert shown - real == {"angry", "left_eye_center"}


def test_python(home: Path) -> None:
    _, *codes = examples("run")
    for code in codes:
        (home / "example.py").write_text(code)
        done = run("python example.py", home)
        assert done.returncode == 0, done.stderr
        assert "happy" in done.stdout


@pytest.mark.slow
def test_many(home: Path) -> None:
    pytest.importorskip("ray", reason='RAY NOT TESTED: pip install "facexp[ray]"')
    (commands,) = examples("ray")
    # each starts a Ray of its own: the first shows it, the last that nothing is left to do
    first, _, again = commands.splitlines()
    for line in (first, again):
        done = run(line, home)
        assert (done.returncode, done.stdout) == (0, ""), f"{line}\n{done.stderr}"
    assert pd.read_parquet(home / "results.parquet")["source"].tolist() == ["photos/one.jpg"]


def test_prove(home: Path) -> None:
    (command,) = examples("prove")
    done = run(command, home)
    assert done.returncode == 0, done.stdout + done.stderr


def test_benchmark(home: Path) -> None:
    (commands,) = examples("benchmark")
    for command in commands.splitlines():
        done = run(command.replace("benchmark", "benchmark --rounds 1 --starts 1"), home)
        assert done.returncode == 0, done.stderr
    assert json.loads((home / "speed.json").read_text())["sources"] == ["photos/"]


def test_demo(home: Path) -> None:
    (line,) = examples("demo")
    assert line.strip().endswith("/facexp demo")
    done = run("facexp demo", home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["faces"][0]["emotion"]["label"] == "happy"
    assert cv2.imread(str(home / "facexp-demo.jpg")).shape == (512, 512, 3)


@pytest.mark.slow
def test_training_to_a_bundle_that_runs(home: Path) -> None:
    drawn.write_training(home / "training.csv", 680)
    drawn.write_fer2013(home / "fer2013.csv", 520, 520)
    (commands,) = examples("train")
    (home / "small.toml").write_text(RECIPE)
    for line in commands.splitlines():
        task = line.split()[2] if line.startswith("facexp train") else ""
        changes = "".join(f" --set '{change}'" for change in SMALL.get(task, []))
        changes += " --recipe small.toml" if line.startswith("facexp export") else ""
        done = run(line + changes, home)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    manifest = json.loads((home / "models" / "manifest.json").read_text())
    assert set(manifest["models"]) == {"keypoints", "emotion"}
    # evaluated before it was exported, so the figures went along
    assert {figure["model"] for figure in manifest["models"]["emotion"]["figures"]} == {"keras"}
    assert str(home) not in (home / "models" / "manifest.json").read_text()
    (line,) = examples("ci")
    done = run(line.replace("DIR", "models"), home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (home / "proof" / "report.html").is_file()
    shutil.rmtree(home / "runs")


def test_looking_at_the_data(tmp_path: Path) -> None:
    drawn.write_training(tmp_path / "training.csv", 20)
    drawn.write_fer2013(tmp_path / "fer2013.csv", 14, 7)
    (commands,) = examples("look")
    for line in commands.splitlines():
        done = run(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (tmp_path / "look" / "index.html").is_file()
    assert [*pd.read_csv(tmp_path / "more" / "training.csv", nrows=1).columns][-3:] == ["Image", "split", "group"]
