"""A server from its start to its end: ports, signals, and the last answers.

run(Settings(), started=lambda ports: print(ports.rest))
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
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


def run(settings: Settings, started: Callable[[Ports], object]) -> None:
    """Serve until SIGINT or SIGTERM, then answer what was taken and return; a second signal ends the process at once.

    `started` is called when requests are taken. Raises FacexpError where the server cannot start.
    """

    async def main() -> None:
        stop = asyncio.Event()
        with _signals(stop):
            await serve(settings, stop, started)

    asyncio.run(main())


async def serve(settings: Settings, stop: asyncio.Event, started: Callable[[Ports], object]) -> None:
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
        await asyncio.gather(serving, rpc.stop(settings.limits.drain_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.limits.drain_s):
                await service.versions.close()


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
        timeout_graceful_shutdown=max(1, round(settings.limits.drain_s)),
        **files,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ServerError(f"certificate or key: cannot be used ({error.strerror or error})") from None
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


def _listen(settings: Settings) -> Any:
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
