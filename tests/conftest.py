"""What all rooms' tests share."""

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

# one test may hold threads of gRPC that have their say in the children of another, before these are other programs
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

_TOGETHER = ("export", "runtime/many", "runtime/server")
"""Folders whose tests share what is dear to make: a bundle exported, a cluster started, a server loaded."""


class _ByFolderAndFile(LoadScopeScheduling):  # type: ignore[misc]
    """The tests of one of _TOGETHER's folders, or else of one file, run in one process."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def _group(nodeid: str) -> str:
    file = nodeid.partition("::")[0].removeprefix("tests/")
    return next((folder for folder in _TOGETHER if file.startswith(f"{folder}/")), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Which tests share a process where there are several (`-n`). xdist 3.8's own groups do nothing with pytest 9.2."""
    return _ByFolderAndFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What has slow tests begins, so that no process ends long before the others."""
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
    """A copy of the bundle that ships."""
    return Path(shutil.copytree(shipped(), tmp_path / "bundle"))


@pytest.fixture
def film(tiny_bundle: Path) -> Callable[..., Any]:
    """Makes the `Film` of tests/film.py."""
    return partial(Film, tiny_bundle)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real faces of FACEXP_DATA. Without them the test is skipped; a FACEXP_DATA that leads nowhere fails it."""
    given = os.environ.get("FACEXP_DATA")
    path = Path(given) if given else _ROOT.parent / "shared" / "data"
    if (path / "samples" / "labels.csv").is_file():
        return path
    if given:
        pytest.fail(f"FACEXP_DATA is {given}, and {path / 'samples' / 'labels.csv'} is not there")
    pytest.skip("NO REAL FACES TESTED: no ../shared/data beside the checkout; set FACEXP_DATA to the data directory")


@pytest.fixture
def astronaut() -> NDArray[np.uint8]:
    """(512, 512, 3) BGR uint8 of the public-domain portrait, a fresh copy for each test."""
    data = pytest.importorskip("skimage.data", reason="the astronaut comes with scikit-image")
    return np.ascontiguousarray(data.astronaut()[:, :, ::-1])


@pytest.fixture(scope="session")
def astronaut_file() -> Path:
    """The same portrait as a file."""
    from facexp_cli.demo import astronaut

    return astronaut()
