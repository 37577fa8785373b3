"""A server from its start to its end: ports, signals, and the last answers.

run(Settings(), started=lambda ports: print(ports.rest))
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import uvicorn

from facexp.analyzer import AnalyzerOptions
from facexp.listening import host_and_port, is_public, listen, own_names
from facexp.server.access import TOKEN_VARIABLE, Access, ServerError, Tls, read_pem
from facexp.server.batching import Batching
from facexp.server.connections import patient_for
from facexp.server.limits import Limits
from facexp.server.rest import application
from facexp.server.rpc import rpc_server
from facexp.server.service import Service

_LAST_S = 1.0
"""So long, beyond the time to drain, the last refusals have to reach their clients, and idle threads to end."""

_logger = logging.getLogger("facexp")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is served, to whom, and how much of it."""

    base: Path | None = None
    """A bundle, or a folder of version folders (1, 2 ...) with a bundle each; None is what ships with facexp."""
    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int = 8500
    """Ports as TensorFlow Serving has them; 0 takes a free one."""
    analyzer: AnalyzerOptions = field(default_factory=AnalyzerOptions)
    limits: Limits = field(default_factory=Limits)
    batching: Batching = field(default_factory=Batching)
    access: Access = field(default_factory=Access)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the server is found."""

    rest: str
    """http://HOST:PORT or https://HOST:PORT."""
    grpc: str
    """HOST:PORT."""
    public: bool
    """Whether other machines can reach them."""


def run(settings: Settings, started: Callable[[Ports], object]) -> bool:
    """Serve until SIGINT or SIGTERM, then answer what was taken and return; a second signal ends the process at once.

    `started` is called when requests are taken. Gives whether all threads have ended; where one still works on a
    picture, Python waits for it before the process ends. Raises FacexpError where the server cannot start.
    """

    async def main() -> bool:
        stop = asyncio.Event()
        with _signals(stop):
            return await serve(settings, stop, started)

    return asyncio.run(main())


async def serve(settings: Settings, stop: asyncio.Event, started: Callable[[Ports], object]) -> bool:
    """As `run`, until `stop` is set."""
    with contextlib.closing(_listen(settings)) as opened:
        address = opened.getsockname()[0]
        hosts = None
        if not (is_public(opened) or settings.access.closed):
            hosts = own_names(opened, settings.host)
        service = Service(settings.base, settings.analyzer, settings.limits, settings.batching)
        http = _http(application(service, settings.access, hosts), settings)
        rpc = rpc_server(service, settings.access)
        grpc_port = _add_port(rpc, host_and_port(address, settings.grpc_port), settings.access.tls)
        await service.versions.start()
        await rpc.start()
        watching = asyncio.create_task(service.versions.watch())
        serving = asyncio.create_task(http.serve([opened]))
        while not http.started and not serving.done():
            await asyncio.sleep(0.01)
        scheme = "https" if settings.access.tls else "http"
        rest = f"{scheme}://{host_and_port(address, opened.getsockname()[1])}"
        started(Ports(rest, host_and_port(address, grpc_port), is_public(opened)))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, serving], return_when=asyncio.FIRST_COMPLETED)
        _logger.info("stopping: what was taken is answered")
        service.stop()
        watching.cancel()
        http.should_exit = True
        drain_s = settings.limits.drain_s
        ending = asyncio.gather(serving, rpc.stop(drain_s + _LAST_S))
        await asyncio.wait([ending], timeout=drain_s)
        if left := service.give_up():
            _logger.warning("requests that were taken and not answered within %g s: %d", drain_s, left)
        await ending
        try:
            async with asyncio.timeout(_LAST_S):
                await service.versions.close()
        except TimeoutError:
            return False
        return True


class _Http(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # they are `run`'s, which stops both protocols
        yield


def _http(app: Any, settings: Settings) -> _Http:
    tls = settings.access.tls
    files: dict[str, Any] = {}
    if tls is not None:
        files = {"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.key)}
        if tls.clients is not None:
            files |= {"ssl_ca_certs": str(tls.clients), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    paths = [] if tls is None else [path for path in (tls.certificate, tls.key, tls.clients) if path is not None]
    for path in paths:
        # what ssl says of a file that is not there does not name it
        read_pem(path)
    config = uvicorn.Config(
        app,
        http=patient_for(settings.limits.timeout_s),
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(settings.limits.drain_s + _LAST_S),
        **files,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(map(str, paths))
        raise ServerError(f"{named}: cannot be used as certificate and key ({error.strerror or error})") from None
    return _Http(config)


def _add_port(server: Any, address: str, tls: Tls | None) -> int:
    try:
        if tls is None:
            return int(server.add_insecure_port(address))
        clients = None if tls.clients is None else read_pem(tls.clients)
        credentials = grpc.ssl_server_credentials(
            [(read_pem(tls.key), read_pem(tls.certificate))], clients, require_client_auth=clients is not None
        )
        return int(server.add_secure_port(address, credentials))
    except RuntimeError:
        raise ServerError(f"nothing can be served on {address}: is the port taken?") from None


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.host, settings.rest_port
    try:
        opened = listen(host, port)
    except OSError as error:
        raise ServerError(f"nothing can be served on {host_and_port(host, port)}: {error.strerror}") from None
    if is_public(opened) and not settings.access.closed:
        opened.close()
        raise ServerError(
            f"{host} can be reached from other machines: give a token (--token-file FILE, or {TOKEN_VARIABLE} in the "
            "environment) or ask the clients for certificates (--tls-clients FILE)"
        )
    return opened


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def handle(number: int, _: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        loop.call_soon_threadsafe(stop.set)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
