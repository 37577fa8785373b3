"""What users install: the built wheel in its own environment, without the dependencies of training."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("tensorflow", "keras", "pandas", "matplotlib", "sklearn", "onnx", "torch")
PYTHONS = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)], check=True, timeout=300)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module", params=PYTHONS)
def clean_bin(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of a new environment that holds the wheel with its `cpu` extra and nothing else."""
    home = tmp_path_factory.mktemp("clean")
    subprocess.run([interpreter(request.param), "-m", "venv", str(home)], check=True, timeout=120)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", f"{wheel}[cpu]"]
    subprocess.run(pip, check=True, timeout=300, env=clean_environment())
    return home / "bin"


def interpreter(version: str) -> str:
    """Return the Python of a version that pyproject.toml lists; skip the test if this machine does not have it."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    found = shutil.which(f"python{version}")
    # pyenv puts commands on PATH even for versions that it does not run
    if found is None or subprocess.run([found, "-c", ""], capture_output=True).returncode != 0:
        pytest.skip(f"THE WHEEL IS NOT TESTED ON PYTHON {version}: no python{version} on PATH runs")
    return found


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_the_wheel_holds_the_models_and_no_pictures(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        weights = [info for info in archive.infolist() if info.filename.endswith((".onnx", ".tflite"))]
        size = sum(info.file_size for info in weights if info.filename.startswith("facexp/models/"))
    assert "facexp/sinks/preview.html" in names
    assert {f"facexp/server/page.{kind}" for kind in ("html", "css", "js")} <= set(names)
    for name in ("manifest.json", "golden.npz", "keypoints.int8.onnx", "emotion.int8.onnx"):
        assert f"facexp/models/{name}" in names
    assert "facexp_export/recipes/default.toml" in names
    assert any(name.endswith("licenses/LICENSE-WEIGHTS") for name in names)
    assert size < 12e6
    assert not [name for name in names if name.endswith((".jpg", ".jpeg", ".png", ".gif", ".mp4"))]
    assert not [name for name in names if name.startswith("tests")]


def test_the_installed_wheel_analyses_a_photo(clean_bin: Path, astronaut_file: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(clean_bin / "facexp-infer"), str(astronaut_file), "--save", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    record = json.loads(line)
    assert len(record["faces"]) == 1
    assert record["faces"][0]["emotion"]["label"] == "happy"
    assert (tmp_path / "out").is_dir()


def test_the_wheel_imports_nothing_heavy(clean_bin: Path) -> None:
    script = (
        "import sys, numpy, facexp, facexp_cli.main, facexp_cli.infer\n"
        "facexp.Analyzer().analyze(numpy.zeros((64, 64, 3), numpy.uint8))\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
        "import importlib.util\n"
        f"print([name for name in {HEAVY!r} if importlib.util.find_spec(name)])\n"
    )
    done = subprocess.run(
        [str(clean_bin / "python"), "-c", script], capture_output=True, text=True, timeout=120, env=clean_environment()
    )
    assert done.stdout.split("\n")[:2] == ["[]", "[]"], done.stdout + done.stderr


def test_a_missing_extra_is_reported_in_one_line(clean_bin: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(clean_bin / "facexp"), "train", "emotion", str(tmp_path), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment(),
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert 'pip install "facexp[train]"' in done.stderr
