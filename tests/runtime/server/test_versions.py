"""Version folders: a new one takes over while the old one answers what it has accepted; a bad one changes nothing."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import shutil
import socket
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import tiny_bundle as tiny
from facexp.analyzer import AnalyzerOptions
from facexp.server.access import ServerError
from facexp.server.batching import Batching
from facexp.server.limits import Limits
from facexp.server.pictures import read_picture
from facexp.server.service import Service
from facexp.server.versions import State, Versions

TIMEOUT_S = 60.0
KEYPOINTS = "/v1/models/keypoints"
BODY = {"instances": np.zeros((1, 96, 96, 1), int).tolist()}
_PNG = cv2.imencode(".png", np.zeros((96, 96), np.uint8))[1].tobytes()
ENCODED = {"signature_name": "serving_encoded", "instances": [{"b64": base64.b64encode(_PNG).decode()}]}


@pytest.fixture(autouse=True)
def fast_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facexp.server.versions.POLL_S", 0.02)


@pytest.fixture
def add(tmp_path: Path) -> Callable[[int], Path]:
    """Add a version whose points lie as many pixels further right as its number; in one step, by a rename."""

    def make(number: int) -> Path:
        made = tiny.build(tmp_path / "making", tiny.MEAN_SHAPE + np.float32([number, 0]))
        (tmp_path / "base").mkdir(exist_ok=True)
        return Path(shutil.move(made, tmp_path / "base" / str(number)))

    return make


def answering_version(server: Any, body: dict[str, Any] = BODY) -> int:
    """The version that answers, known by the points that it returns."""
    (points,) = server.ask(f"{KEYPOINTS}:predict", body).json["predictions"]
    return round(float((np.array(points) - tiny.MEAN_SHAPE)[:, 0].mean()))


def states(server: Any) -> dict[int, str]:
    found = server.ask(KEYPOINTS).json["model_version_status"]
    return {int(each["version"]): each["state"] for each in found}


def wait(done: Callable[[], bool]) -> None:
    for _ in range(3000):
        if done():
            return
        threading.Event().wait(0.02)
    raise AssertionError("the condition never became true")


def test_a_new_version_takes_over(
    start: Callable[..., Any], add: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the reload: the highest number answers, 10 after 9; the old version drains, and takes over again."""
    for number in (2, 9):
        add(number)
    (tmp_path / "base" / "notes").mkdir()
    (tmp_path / "base" / "010").mkdir()
    server = start(base=tmp_path / "base")
    assert (answering_version(server), states(server)) == (9, {9: "AVAILABLE"})
    held, begun = threading.Event(), threading.Event()

    def read(file: bytes, most: int) -> Any:
        begun.set()
        assert held.wait(TIMEOUT_S)
        return read_picture(file, most)

    # before the network, while no batch holds the request
    monkeypatch.setattr("facexp.server.models.read_picture", read)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(answering_version, server, ENCODED)
        assert begun.wait(TIMEOUT_S)
        add(10)
        wait(lambda: states(server).get(10) == "AVAILABLE")
        assert states(server)[9] == "UNLOADING"
        assert server.metric('facexp_requests_under_way{model="keypoints"}') == 1
        assert answering_version(server) == 10
        assert server.ask(f"{KEYPOINTS}/versions/9:predict", BODY).status == 404
        held.set()
        assert taken.result(TIMEOUT_S) == 9
    wait(lambda: states(server)[9] == "END")
    shutil.rmtree(tmp_path / "base" / "10")
    wait(lambda: states(server)[10] == "END")
    assert answering_version(server) == 9
    # the server continues to answer if no version folder is left
    shutil.rmtree(tmp_path / "base")
    threading.Event().wait(0.2)
    assert answering_version(server) == 9


def test_a_version_that_cannot_be_loaded_is_tried_again_when_it_changes(
    start: Callable[..., Any], add: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards half-copied folders: reported once in the log, without details to clients."""
    add(1)
    server = start(base=tmp_path / "base")
    second = tmp_path / "base" / "2"
    second.mkdir()
    wait(lambda: states(server).get(2) == "END")
    assert answering_version(server) == 1
    status = server.ask(f"{KEYPOINTS}/versions/2").json["model_version_status"][0]["status"]
    assert status["error_code"] == "INTERNAL"
    assert str(tmp_path) not in json.dumps(status)
    threading.Event().wait(0.2)
    assert caplog.text.count("version 2 is not loaded") == 1
    assert str(second / "manifest.json") in caplog.text
    made = tiny.build(tmp_path / "making", tiny.MEAN_SHAPE + np.float32([2, 0]))
    # copied slowly, the manifest first
    for name in ("manifest.json", *sorted(file.name for file in made.glob("*.onnx"))):
        shutil.copy(made / name, second / name)
        threading.Event().wait(0.1)
    wait(lambda: answering_version(server) == 2)


def test_a_version_that_does_not_fit_the_settings_is_skipped(
    start: Callable[..., Any], add: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards a bundle without the requested labels: reported once, in one line, and the next lower version answers."""
    add(1)
    manifest = add(3) / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["models"]["emotion"]["preprocessing"]["heads"] = ["ferplus"]
    manifest.write_text(json.dumps(facts))
    server = start(base=tmp_path / "base", analyzer=AnalyzerOptions("cpu", 1, labels="fer2013", precision="float32"))
    assert answering_version(server) == 1
    add(2)
    wait(lambda: answering_version(server) == 2)
    (logged,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert logged.getMessage().startswith("version 3 is not loaded: labels must be")
    assert not logged.exc_info


def test_the_memory_of_an_old_version_is_freed_at_once(add: Any, tmp_path: Path) -> None:
    """Guards a server that is updated for months: a full garbage collection may come only after dozens of versions."""

    async def main() -> None:
        service = Service(tmp_path / "base", AnalyzerOptions(), Limits(), Batching())
        await service.versions.start()
        assert service.versions.current is not None
        old = list(map(weakref.ref, service.versions.current.models.values()))
        add(2)
        await service.versions.poll()
        async with asyncio.timeout(TIMEOUT_S):
            while service.versions.known("faces", 1)[0].state is not State.END:
                await asyncio.sleep(0.01)
        assert [model() for model in old] == [None, None, None]
        await service.versions.close()

    add(1)
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_stopping_does_not_wait_for_a_version_being_loaded() -> None:
    """Guards --drain against a disk that hangs: Python would wait for the event loop's own threads."""
    loading, release, ended = threading.Event(), threading.Event(), threading.Event()

    def load(_: Path | None) -> Any:
        loading.set()
        release.wait(TIMEOUT_S)
        ended.set()
        raise ServerError("too late")

    async def main() -> None:
        versions = Versions(None, load, lambda _: {})
        starting = asyncio.create_task(versions.start())
        while not loading.is_set():
            await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await versions.close()

    # lets the test fail instead of hang
    watchdog = threading.Timer(10, release.set)
    watchdog.start()
    asyncio.run(main())
    assert not ended.is_set()
    watchdog.cancel()
    release.set()


def test_what_cannot_be_served_is_refused_at_the_start(
    start: Callable[..., Any], tmp_path: Path, tiny_bundle: Path
) -> None:
    """Guards against a server that never answers, from an empty folder or with a wrong setting."""
    with pytest.raises(ServerError, match=r"no bundle \(manifest.json\) and no version folder"):
        start(base=tmp_path)
    with pytest.raises(ValueError, match="labels must be one of"):
        start(base=tiny_bundle, analyzer=AnalyzerOptions("cpu", labels="nobody's"))


def test_a_server_that_cannot_start_frees_its_ports(
    start: Callable[..., Any], add: Callable[[int], Path], tmp_path: Path
) -> None:
    """Guards a program that tries again in the same process until a bundle is there: gRPC kept its port for good."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match="no bundle"):
        start(base=tmp_path / "base", grpc_port=port)
    add(1)
    assert start(base=tmp_path / "base", grpc_port=port).ports.grpc == f"127.0.0.1:{port}"
