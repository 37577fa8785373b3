"""Fixtures and pytest hooks that the tests of all packages share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from xdist.scheduler import LoadScopeScheduling

import tiny_bundle as tiny
from facexp.bundle import shipped
from film import Film
from rtsp_camera import RtspCamera
from web_camera import WebCamera

_ROOT = Path(__file__).resolve().parent.parent

# gRPC threads that one test has left would run fork handlers in child processes of another test, before their exec
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# tests that move the user's caches would make matplotlib search all fonts again, for seconds in each process
os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))

_SHARED_FOLDERS = ("export", "runtime/many", "runtime/server")
"""Folders whose tests share fixtures that are expensive to set up: an exported bundle, a Ray cluster, a server."""


class _ByFolderAndFile(LoadScopeScheduling):  # type: ignore[misc]
    """Run the tests of a folder in _SHARED_FOLDERS, or else of a file, in the same process."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def _group(nodeid: str) -> str:
    file = nodeid.partition("::")[0].removeprefix("tests/")
    return next((folder for folder in _SHARED_FOLDERS if file.startswith(f"{folder}/")), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Choose which tests share a process under `-n`: the groups of xdist 3.8 have no effect with pytest 9.2."""
    return _ByFolderAndFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start with the groups that have slow tests, so that no process ends long before the others."""
    if hasattr(config, "workerinput"):
        slow = {_group(item.nodeid) for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: _group(item.nodeid) not in slow)


@pytest.fixture
def web_camera() -> Iterator[Any]:
    """A running `WebCamera` of tests/web_camera.py."""
    with WebCamera() as camera:
        yield camera


@pytest.fixture
def rtsp_camera() -> Iterator[Any]:
    """A running `RtspCamera` of tests/rtsp_camera.py, whose first stream ends after 20 frames."""
    with RtspCamera(first=20) as camera:
        yield camera


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the bundle of tests/tiny_bundle.py, shared by all tests: copy it before damaging it."""
    return tiny.build(tmp_path_factory.mktemp("tiny_bundle"))


@pytest.fixture
def own_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def own_shipped(tmp_path: Path) -> Path:
    """A copy of the shipped bundle that a test may damage."""
    return Path(shutil.copytree(shipped(), tmp_path / "bundle"))


@pytest.fixture
def film(tiny_bundle: Path) -> Callable[..., Any]:
    """A function that makes a `Film` of tests/film.py with the tiny bundle."""
    return partial(Film, tiny_bundle)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The directory of real faces: FACEXP_DATA, or ../shared/data. Without it the test is skipped.

    If FACEXP_DATA is set but does not hold the data, the test fails.
    """
    given = os.environ.get("FACEXP_DATA")
    path = Path(given) if given else _ROOT.parent / "shared" / "data"
    if (path / "samples" / "labels.csv").is_file():
        return path
    if given:
        pytest.fail(f"FACEXP_DATA is {given}, and {path / 'samples' / 'labels.csv'} is not there")
    pytest.skip("NO REAL FACES TESTED: no ../shared/data next to the checkout; set FACEXP_DATA to the data directory")


@pytest.fixture
def astronaut() -> NDArray[np.uint8]:
    """The public-domain portrait as (512, 512, 3) BGR uint8, a fresh copy for each test."""
    data = pytest.importorskip("skimage.data", reason="the astronaut comes with scikit-image")
    return np.ascontiguousarray(data.astronaut()[:, :, ::-1])


@pytest.fixture(scope="session")
def astronaut_file() -> Path:
    """The same portrait as a file."""
    from facexp_cli.demo import astronaut

    return astronaut()
