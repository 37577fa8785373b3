"""A server on the tiny bundle, in a thread of the test's process, and a client that needs only the standard library."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

for module in ("starlette", "uvicorn", "grpc", "prometheus_client"):
    pytest.importorskip(module, reason="NO SERVER TESTED: it comes with the extra `serve`")

from facexp.analyzer import AnalyzerOptions  # noqa: E402
from facexp.server.serving import Ports, Settings, serve  # noqa: E402

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A response by REST."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


@dataclass(slots=True)
class Running:
    """A running server."""

    settings: Settings
    ports: Ports | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _stop: asyncio.Event | None = None
    _thread: threading.Thread | None = None
    _failure: list[BaseException] = field(default_factory=list)

    def start(self) -> None:
        started = threading.Event()

        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()

            def ready(ports: Ports) -> None:
                self.ports = ports
                started.set()

            await serve(self.settings, self._stop, ready)

        def run() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:
                self._failure.append(error)
            finally:
                started.set()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert started.wait(TIMEOUT_S)
        if self._failure:
            self._thread.join()
            raise self._failure[0]

    def ask_to_stop(self) -> None:
        assert self._loop
        assert self._stop
        # a test may have stopped it already
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        assert self._thread
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        assert not self._failure, self._failure

    def connect(self) -> http.client.HTTPConnection:
        assert self.ports
        return http.client.HTTPConnection(self.ports.rest.removeprefix("http://"), timeout=TIMEOUT_S)

    def ask(self, path: str, body: Any = None, **headers: str) -> Answer:
        """Send GET, or POST if there is a body: bytes, or an object that is sent as JSON."""
        connection = self.connect()
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("GET" if data is None else "POST", path, data, headers)
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        answer = Answer(response.status, named, response.read())
        connection.close()
        return answer

    def metric(self, name: str) -> float:
        """The value of the line of /metrics with this name and labels; 0.0 if there is none."""
        lines = self.ask("/metrics").body.decode().splitlines()
        found = [line for line in lines if line.startswith(name + " ")]
        return float(found[0].split()[1]) if found else 0.0


@pytest.fixture(scope="session")
def settings(tiny_bundle: Path) -> Settings:
    """The tiny bundle's float32 files on free ports."""
    return Settings(tiny_bundle, rest_port=0, grpc_port=0, analyzer=AnalyzerOptions("cpu", 1, precision="float32"))


@pytest.fixture
def start(settings: Settings) -> Iterator[Callable[..., Running]]:
    """Start a server with changed settings; it is stopped at the end of the test."""
    running: list[Running] = []

    def make(**changes: Any) -> Running:
        server = Running(replace(settings, **changes))
        server.start()
        running.append(server)
        return server

    yield make
    for server in running:
        server.ask_to_stop()
        server.join()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with authority.pem, and a .pem and a .key for each of server and client."""
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("NO CERTIFICATES TESTED: there is no openssl on this machine")
    folder = tmp_path_factory.mktemp("certificates")

    def run(*arguments: str) -> None:
        subprocess.run([tool, *arguments], cwd=folder, check=True, capture_output=True, timeout=TIMEOUT_S)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    # required by Python 3.13 and newer
    may_sign = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    authority = ("-keyout", "authority.key", "-out", "authority.pem", "-days", "2", "-subj", "/CN=tests")
    run("req", "-x509", *curve, *may_sign, *authority)
    for name in ("server", "client"):
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
        run("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-days", "2")
        run("x509", "-req", "-in", f"{name}.csr", *signed, "-extfile", "names", "-out", f"{name}.pem")
    return folder


@pytest.fixture(scope="session")
def server(settings: Settings) -> Iterator[Running]:
    """One server, shared by all tests that change nothing in it."""
    running = Running(settings)
    running.start()
    yield running
    running.ask_to_stop()
    running.join()
