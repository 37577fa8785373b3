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
from facexp.geometry import KEYPOINTS

README = Path(__file__).parents[1] / "README.md"
BIN = Path(sys.executable).parent
SMALL = {
    "keypoints": [
        "epochs=3",
        "batch_size=16",
        "ema=0.9",
        "learning_rate=0.01",
        "network.stem=8",
        "network.stages=[8,16]",
    ],
    "emotion": [
        *("teachers=[]", "epochs=8", "settle_epochs=0", "batch_size=16", "ema=0.9", "learning_rate=0.01"),
        *("network.stem=8", "network.stages=[8,16,16]"),
        *(f"augmentation.{change}=0" for change in ("mixup", "erasing", "contrast", "brightness", "gamma", "rotation")),
        *(f"augmentation.{change}=0" for change in ("blur", "noise", "shrink", "jpeg")),
    ],
}


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
    rng = np.random.default_rng(0)
    write_keypoints(home / "training.csv", rng)
    write_emotions(home / "fer2013.csv", rng)
    (commands,) = examples("train")
    # what hundreds of drawings and networks of a few passes can keep to
    margins = "[tolerances]\nrounded_mean_spread = 0.2\n[margins]\naccuracy_points = 5.0\nrmse_px = 1.0\n"
    (home / "small.toml").write_text(margins)
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


def drawn_face(size: int, rng: np.random.Generator, smile: float) -> tuple[np.ndarray, np.ndarray]:
    """A face of ellipses and where its 15 points are."""
    unit, centre = size / 96, (size - 1) / 2 + rng.uniform(-0.03, 0.03, 2) * size
    shape = {
        "eye": (17, -12),
        "inner": (11, -12),
        "outer": (23, -12),
        "brow_in": (9, -22),
        "brow_out": (27, -21),
        "mouth": (13, 24 - smile),
    }
    points = np.zeros((15, 2), np.float32)
    keys = ["eye", "eye", "inner", "outer", "inner", "outer", "brow_in", "brow_out", "brow_in", "brow_out"]
    sides = [1, -1, 1, 1, -1, -1, 1, 1, -1, -1]
    for index, (key, side) in enumerate(zip(keys, sides, strict=True)):
        points[index] = (side * shape[key][0], shape[key][1])
    points[10] = (0, 6)
    points[11], points[12] = (13, 24 - smile), (-13, 24 - smile)
    points[13], points[14] = (0, 22), (0, 28)
    points = points * unit + centre
    image = np.full((size, size), 70, np.uint8)
    cv2.ellipse(image, tuple(np.int32(centre)), (int(34 * unit), int(44 * unit)), 0, 0, 360, 190, -1)
    for index in range(2):
        cv2.circle(image, tuple(np.int32(points[index])), max(1, int(4 * unit)), 30, -1)
    for start, end in ((6, 7), (8, 9), (11, 14), (12, 14), (11, 13), (12, 13)):
        cv2.line(image, tuple(np.int32(points[start])), tuple(np.int32(points[end])), 60, max(1, int(2 * unit)))
    if smile > 6:
        teeth = tuple(np.int32(points[13:15].mean(axis=0)))
        cv2.ellipse(image, teeth, (int(12 * unit), int(6 * unit)), 0, 0, 360, 250, -1)
    # clouds of light and shade: without them the readers would rightly take the drawings for copies of one picture
    clouds = cv2.GaussianBlur(rng.normal(0, 1, (size, size)), (0, 0), size / 10)
    noisy = image + 60 * clouds / clouds.std() + rng.normal(0, 4, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), points


def write_keypoints(path: Path, rng: np.random.Generator) -> None:
    faces = [drawn_face(96, rng, rng.uniform(-6, 6)) for _ in range(900)]
    columns = [f"{name}_{axis}" for name in KEYPOINTS for axis in "xy"]
    table = pd.DataFrame([points.ravel() for _, points in faces], columns=columns).round(3)
    table.assign(Image=[" ".join(map(str, image.ravel())) for image, _ in faces]).to_csv(path, index=False)


def write_emotions(path: Path, rng: np.random.Generator) -> None:
    rows = []
    for index in range(1600):
        happy = index % 2 == 0
        image, _ = drawn_face(48, rng, 7 if happy else -7)
        usage = "PublicTest" if index % 4 == 1 or index % 8 == 2 else "Training"
        rows.append((3 if happy else 4, " ".join(map(str, image.ravel())), usage))
    pd.DataFrame(rows, columns=["emotion", "pixels", "Usage"]).to_csv(path, index=False)
