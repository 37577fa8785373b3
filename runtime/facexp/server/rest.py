"""A Starlette application with the REST interface, the web page, the metrics and the health checks."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.resources
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from facexp.draw import COLOURS
from facexp.server import metrics
from facexp.server.access import Access
from facexp.server.errors import Busy, Disconnected, RequestError, TooLarge, Unauthenticated
from facexp.server.protocol import metadata_answer, predict_answer, read_body, read_input, status_answer
from facexp.server.service import ActiveRequest, Service, Target

# the page is self-contained and may load nothing from elsewhere; its own pictures are blob: URLs
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
}
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
_PAGE_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}

_logger = logging.getLogger("facexp")

_Endpoint = Callable[[Request], Awaitable[Response]]


class _VersionNumber(IntegerConvertor):
    # Python raises ValueError for a number of thousands of digits, which would be logged as an internal error
    regex = "[0-9]{1,19}"


register_url_convertor("number", _VersionNumber())


def application(service: Service, access: Access, hosts: list[str] | None) -> Any:
    """Return the ASGI application. `hosts` are the accepted values of the Host header; None accepts any."""
    rest = _Rest(service)
    authenticated = functools.partial(_authenticated, access)
    model, version = "/v1/models/{name}", "/versions/{version:number}"
    routes = [Route(path, _page(*file)) for path, file in _PAGE_FILES.items()]
    routes += [
        Route("/healthz", rest.healthy),
        Route("/readyz", rest.ready),
        Route("/metrics", authenticated(rest.metrics)),
    ]
    for place in (model, model + version):
        routes += [
            Route(place + ":predict", authenticated(rest.predict), methods=["POST"]),
            # or it would match the status route, as a model called NAME:predict
            Route(place + ":predict", authenticated(_only_post)),
            Route(place + "/metadata", authenticated(rest.metadata)),
            Route(place, authenticated(rest.status)),
        ]
    # against DNS rebinding: a page on the internet could point its own host name at this machine and read the answers
    middleware = [] if hosts is None else [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
    handlers: dict[Any, Any] = {RequestError: _refused, HTTPException: _http_error, Exception: _failed}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


class _Rest:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def predict(self, request: Request) -> Response:
        name, version = _target(request)
        async with self._service.request("rest", name) as active:
            # so that an unknown model is refused before the body is received
            self._service.versions.find(name, version)
            async with self._body(request) as data:
                body = read_body(data)
                # frees the memory of the text, which is larger than the values parsed from it
                data.clear()
                target = Target(name, version, body.signature)
                with _while_connected(request, active):
                    _, signature, outputs = await self._service.predict(target, functools.partial(read_input, body))
                return JSONResponse(predict_answer(body, signature, outputs), headers=_HEADERS)

    async def metadata(self, request: Request) -> Response:
        name, version = _target(request)
        async with self._service.request("rest", name):
            number, model = self._service.versions.find(name, version)
            return JSONResponse(metadata_answer(name, number, model.signatures), headers=_HEADERS)

    async def status(self, request: Request) -> Response:
        name, version = _target(request)
        async with self._service.request("rest", name):
            return JSONResponse(status_answer(self._service.versions.known(name, version)), headers=_HEADERS)

    async def healthy(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"}, headers=_HEADERS)

    async def ready(self, _: Request) -> Response:
        ready = self._service.ready
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503, headers=_HEADERS)

    async def metrics(self, _: Request) -> Response:
        return Response(self._service.metrics.text(), headers={**_HEADERS, "Content-Type": metrics.CONTENT_TYPE})

    @contextlib.asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytearray]:
        """Receive the request's body, counted against the memory limit from its arrival until the answer is built.

        Raises TooLarge, Busy, Disconnected.
        """
        limit = self._service.limits.request_bytes
        too_large = TooLarge(f"the body is larger than the limit of {limit} bytes")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            raise too_large
        data = bytearray()
        with self._service.memory.holding() as take:
            try:
                async for part in request.stream():
                    if len(data) + len(part) > limit:
                        raise too_large
                    take(len(part))
                    data += part
            except ClientDisconnect:
                raise Disconnected("the connection was closed") from None
            yield data


@contextlib.contextmanager
def _while_connected(request: Request, active: ActiveRequest) -> Iterator[None]:
    """Give the request up if its connection is closed; its body must have been received before."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        active.give_up(Disconnected("the connection was closed"))

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


async def _only_post(_: Request) -> Response:
    raise HTTPException(405, headers={"Allow": "POST"})


def _target(request: Request) -> tuple[str, int | None]:
    return request.path_params["name"], request.path_params.get("version")


def _authenticated(access: Access, endpoint: _Endpoint) -> _Endpoint:
    """Wrap an endpoint so that it refuses requests without the token."""

    @functools.wraps(endpoint)
    async def guarded(request: Request) -> Response:
        access.check(request.headers.get("authorization"))
        return await endpoint(request)

    return guarded


def _page(name: str, kind: str) -> _Endpoint:
    text = importlib.resources.files("facexp.server").joinpath(name).read_text(encoding="utf-8")
    if kind == "text/css":
        colours = " ".join(f"--{name}: rgb({red} {green} {blue});" for name, (blue, green, red) in COLOURS.items())
        text = text.replace("/* colours */", colours)

    async def page(_: Request) -> Response:
        return Response(text, media_type=kind, headers=_HEADERS | _PAGE_HEADERS)

    return page


def _error(status: int, text: str, **more: str) -> Response:
    return JSONResponse({"error": text}, status, headers=_HEADERS | more)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    more = {"Retry-After": "1"} if isinstance(error, Busy) else {}
    if isinstance(error, Unauthenticated):
        more = {"WWW-Authenticate": "Bearer"}
    return _error(error.http_status, str(error), **more)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail, **(error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    # the details go only to the log
    _logger.error("a request for %r failed", request.url.path, exc_info=error)
    return _error(500, "the server failed to process this request")
