"""Shared by the tests of many images: crops, an album, the rows of the plain run, and a stand-in for Ray."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from facexp.analyzer import AnalyzerOptions
from facexp.sinks.pictures import save_picture
from facexp_cli.infer import infer

COUNT = 128


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of COUNT crops of different brightness; two of them, 50.png and 70.png, cannot be read."""
    folder = tmp_path_factory.mktemp("many") / "crops"
    folder.mkdir()
    rows, columns = np.mgrid[:40, :40]
    for number in range(COUNT):
        image = (number + 2 * rows + (number % 5) * columns // 2).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    (folder / "50.png").write_bytes(b"")
    (folder / "70.png").write_bytes((folder / "71.png").read_bytes()[:60])
    return folder


@pytest.fixture(scope="session")
def plain(crops: Path, tiny_bundle: Path) -> list[dict[str, Any]]:
    """The records of plain `facexp-infer`, which does not use Ray, for the crops; without timings."""
    from result_rows import without_times

    result = CliRunner().invoke(infer, [str(crops), "--face-crops", "--bundle", str(tiny_bundle)])
    assert result.exit_code == 1
    return [without_times(json.loads(line)) for line in result.stdout.splitlines()]


@pytest.fixture
def album(tmp_path: Path, astronaut: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a folder `album` that holds every kind of file."""
    monkeypatch.chdir(tmp_path)
    small = np.ascontiguousarray(astronaut[::2, ::2])
    save_picture(Path("album/photo2.png"), small)
    save_picture(Path("album/photo10.jpg"), astronaut)
    save_picture(Path("album/sub/gray.bmp"), np.full((40, 50, 3), 90, np.uint8))
    Path("album/bad.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(20))
    Path("album/empty.png").touch()
    Path("album/.hidden.png").touch()
    assert cv2.imwritemulti("album/pages.tif", [np.full((8, 10), 90, np.uint8)] * 2)
    animation = cv2.Animation()
    animation.frames, animation.durations = [small, 255 - small, small], [100, 100, 100]
    assert cv2.imwriteanimation("album/moving.png", animation)
    writer = cv2.VideoWriter("album/clip.mp4", cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 10, (256, 256))
    for _ in range(4):
        writer.write(small)
    writer.release()
    return tmp_path


@pytest.fixture
def settings(tiny_bundle: Path) -> Iterator[Any]:
    """Settings for the tiny bundle. The OpenCV thread count, which a worker changes, is restored afterwards."""
    many = pytest.importorskip("facexp.many")
    threads = cv2.getNumThreads()
    yield many.Settings(AnalyzerOptions(bundle=tiny_bundle))
    cv2.setNumThreads(threads)


class OneProcess:
    """A stand-in for Ray: the same calls, and one worker in this process, whose arguments are pickled as Ray does."""

    data = exceptions = context = property(lambda self: self)
    RayError = RuntimeError

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def ActorPoolStrategy(self, **_: object) -> None:  # noqa: N802
        return None

    def from_arrow(self, tables: list[Any]) -> OneProcess:
        self.tables = tables
        return self

    def map_batches(self, worker: Any, *, fn_constructor_kwargs: dict[str, Any], **_: object) -> OneProcess:
        self.worker = worker(**pickle.loads(pickle.dumps(fn_constructor_kwargs)))
        return self

    def iter_batches(self, **_: object) -> Iterator[Any]:
        return map(self.worker, self.tables)


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run jobs in this process, without Ray."""
    job = pytest.importorskip("facexp.many.job")
    monkeypatch.setattr(job, "_ray", lambda *_: contextlib.nullcontext(OneProcess()))
