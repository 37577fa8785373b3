"""The life cycle of a server: ports, signals and graceful shutdown.

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
from facexp.server.connections import connection_settings
from facexp.server.limits import Limits
from facexp.server.rest import application
from facexp.server.rpc import rpc_server
from facexp.server.service import Service

_GRACE_S = 1.0
"""Seconds after draining for the last refusals to reach their clients; the same again for idle threads to end."""

_logger = logging.getLogger("facexp")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the server: models, addresses, limits and access."""

    base: Path | None = None
    """A bundle, or a folder of version folders (1, 2 ...) with a bundle each; None is the bundle inside facexp."""
    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int = 8500
    """The default ports are TensorFlow Serving's; 0 takes a free port."""
    analyzer: AnalyzerOptions = field(default_factory=AnalyzerOptions)
    limits: Limits = field(default_factory=Limits)
    batching: Batching = field(default_factory=Batching)
    access: Access = field(default_factory=Access)


@dataclass(frozen=True, slots=True)
class Ports:
    """The addresses of a running server."""

    rest: str
    """http://HOST:PORT or https://HOST:PORT."""
    grpc: str
    """HOST:PORT."""
    public: bool
    """Whether other machines can reach them."""


def run(settings: Settings, started: Callable[[Ports], object]) -> bool:
    """Serve until SIGINT or SIGTERM, then answer the accepted requests and return; a second signal exits at once.

    `started` is called once the server accepts requests. Returns whether all threads have ended: if one still works on
    a picture, Python waits for it before the process ends. Raises FacexpError if the server cannot start, or
    ValueError for an argument of the analyzer out of its range.
    """

    async def main() -> bool:
        stop = asyncio.Event()
        with _signals(stop):
            return await serve(settings, stop, started)

    return asyncio.run(main())


async def serve(settings: Settings, stop: asyncio.Event, started: Callable[[Ports], object]) -> bool:
    """Serve as `run` does, but until `stop` is set."""
    with contextlib.closing(_listen(settings)) as listener:
        address = listener.getsockname()[0]
        hosts = None
        if not (is_public(listener) or settings.access.requires_credentials):
            hosts = own_names(listener, settings.host)
        service = Service(settings.base, settings.analyzer, settings.limits, settings.batching)
        http = _http(application(service, settings.access, hosts), settings)
        rpc = rpc_server(service, settings.access)
        grpc_port = _add_port(rpc, address, settings.grpc_port, settings.access.tls)
        try:
            await service.versions.start()
        except BaseException:
            # gRPC closes the port only of a server that was started
            await rpc.start()
            await rpc.stop(None)
            raise
        await rpc.start()
        watching = asyncio.create_task(service.versions.watch())
        serving = asyncio.create_task(http.serve([listener]))
        while not http.started and not serving.done():
            await asyncio.sleep(0.01)
        scheme = "https" if settings.access.tls else "http"
        rest = f"{scheme}://{host_and_port(address, listener.getsockname()[1])}"
        started(Ports(rest, host_and_port(address, grpc_port), is_public(listener)))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, serving], return_when=asyncio.FIRST_COMPLETED)
        _logger.info("stopping: accepted requests are still answered")
        service.stop()
        watching.cancel()
        http.should_exit = True
        drain_s = settings.limits.drain_s
        ending = asyncio.gather(serving, rpc.stop(drain_s + _GRACE_S))
        await asyncio.wait([ending], timeout=drain_s)
        if left := service.give_up():
            _logger.warning("requests accepted but not answered within %g s: %d", drain_s, left)
        await ending
        try:
            async with asyncio.timeout(_GRACE_S):
                await service.versions.close()
        except TimeoutError:
            return False
        return True


class _Http(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # `run` handles the signals, since it has to stop both protocols
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
        # raises an error that names a missing file; the error of ssl does not
        read_pem(path)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(settings.limits.drain_s + _GRACE_S),
        **connection_settings(settings.limits.timeout_s),
        **files,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(map(str, paths))
        raise ServerError(f"{named}: cannot be used as certificate and key ({error.strerror or error})") from None
    return _Http(config)


def _add_port(server: Any, host: str, port: int, tls: Tls | None) -> int:
    address = host_and_port(host, port)
    try:
        if tls is None:
            return int(server.add_insecure_port(address))
        clients = None if tls.clients is None else read_pem(tls.clients)
        credentials = grpc.ssl_server_credentials(
            [(read_pem(tls.key), read_pem(tls.certificate))], clients, require_client_auth=clients is not None
        )
        return int(server.add_secure_port(address, credentials))
    except RuntimeError:
        raise ServerError(f"cannot listen on {host}, port {port}: is the port taken?") from None


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.host, settings.rest_port
    try:
        listener = listen(host, port)
    except OSError as error:
        raise ServerError(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    if is_public(listener) and not settings.access.requires_credentials:
        listener.close()
        raise ServerError(
            f"{host} can be reached from other machines: give a token (--token-file FILE, or {TOKEN_VARIABLE} in the "
            "environment) or require client certificates (--tls-clients FILE)"
        )
    return listener


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
