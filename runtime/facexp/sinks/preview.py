"""A web page that shows the analysis as it runs: the picture with its faces, their emotions and the speed.

    with Preview("127.0.0.1", 8000) as preview:
        for frame, shot in analyze_sources(...):
            preview.write(frame, shot)

`write` only stores the newest frame and returns; drawing and encoding happen in the server's threads, and only if a
browser has the page open. The page requests one frame after another, so a slow viewer misses frames but never sees old
ones. Needs Starlette and uvicorn: pip install "facexp[serve]".
"""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import importlib.resources
import ipaddress
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import cv2

from facexp.draw import annotate, colours
from facexp.errors import FacexpError
from facexp.geometry import Image
from facexp.listening import host_and_port, is_public, listen, own_names
from facexp.sinks.records import frame_record
from facexp.types import Frame

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from facexp.sources.shots import Shot

MAX_SIDE = 1280
"""Longest side of the pictures shown, in pixels; larger ones are scaled down."""

_JPEG_QUALITY = 80
_POLL_TIMEOUT_S = 5.0
# a viewer that sends no request or accepts no answer for this long is cut off: a phone may have lost its network
_TIMEOUT_S = 30.0
_JOIN_TIMEOUT_S = 0.5
_RATE_WINDOW = 30
# the page contains everything it needs and may load nothing else
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class PreviewError(FacexpError):
    """The preview cannot be served."""


class _Shown(NamedTuple):
    number: int
    frame: Frame | None
    image: Image | None
    fps: float | None


class Preview:
    """A sink that shows its frames in a browser. Its server runs in threads of this process and ends with it."""

    def __init__(self, host: str, port: int) -> None:
        """Serve on this host name or address and port; port 0 takes a free port, which `url` contains.

        Raises PreviewError if Starlette or uvicorn is missing, or if the port is not available.
        """
        try:
            import starlette  # noqa: F401
            import uvicorn

            from facexp.server.connections import connection_settings
        except ModuleNotFoundError as error:
            raise PreviewError(f'{error.name} is not installed: pip install "facexp[serve]"') from None
        self._host = host
        try:
            self._socket = listen(host, port)
        except OSError as error:
            raise PreviewError(f"cannot listen on {host}, port {port}: {error.strerror}") from None
        self._shown = _Shown(0, None, None, None)
        self._encoded = (-1, b"")
        self._encoding = threading.Lock()
        self._times: collections.deque[float] = collections.deque(maxlen=_RATE_WINDOW)
        self._loop = asyncio.new_event_loop()
        self._new_frame = asyncio.Event()
        config = uvicorn.Config(
            self._application(),
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="off",
            ws="none",
            **connection_settings(_TIMEOUT_S),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="facexp-preview", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address of the page; it contains this machine's host name if the page is served on all its addresses."""
        host, port = self._socket.getsockname()[:2]
        if ipaddress.ip_address(host).is_unspecified:
            host = socket.gethostname()
        return f"http://{host_and_port(host, port)}/"

    @property
    def public(self) -> bool:
        """Whether other machines can see the page."""
        return is_public(self._socket)

    def write(self, frame: Frame, shot: Shot | None = None) -> None:
        """Show this frame instead of the last one; returns at once, however many or slow the viewers are."""
        self._times.append(time.monotonic())
        seconds = self._times[-1] - self._times[0]
        fps = (len(self._times) - 1) / seconds if seconds > 0 else None
        # one assignment, so that the server's threads never see a half-updated state
        self._shown = _Shown(self._shown.number + 1, frame, None if shot is None else shot.image, fps)
        # the loop of a server that has ended is closed and raises RuntimeError
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """Stop the server."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(_JOIN_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _application(self) -> Any:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.routing import Route

        routes = [Route("/", self._page), Route("/frame", self._frame)]
        if self.public:
            return Starlette(routes=routes)
        hosts = own_names(self._socket, self._host)
        return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])

    def _serve(self) -> None:
        # when the runner closes, it cancels the requests of slow viewers that still wait
        with self._socket, asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve([self._socket]))

    def _wake(self) -> None:
        self._new_frame.set()
        self._new_frame = asyncio.Event()

    async def _page(self, _: Request) -> Response:
        from starlette.responses import HTMLResponse

        page = importlib.resources.files("facexp.sinks").joinpath("preview.html")
        return HTMLResponse(page.read_text(encoding="utf-8"), headers=_HEADERS)

    async def _frame(self, request: Request) -> Response:
        """Return the newest frame as JSON as soon as it is not the one the viewer has; 204 if none comes in time."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import Response

        new_frame = self._new_frame
        if request.query_params.get("after", "0") == str(self._shown.number):
            try:
                await asyncio.wait_for(new_frame.wait(), _POLL_TIMEOUT_S)
            except TimeoutError:
                return Response(status_code=204, headers=_HEADERS)
        body = await run_in_threadpool(self._encode)
        return Response(body, media_type="application/json", headers=_HEADERS)

    def _encode(self) -> bytes:
        # each frame is encoded once for all viewers
        with self._encoding:
            shown = self._shown
            if self._encoded[0] != shown.number:
                self._encoded = (shown.number, json.dumps(_reply(shown)).encode())
            return self._encoded[1]


def _reply(shown: _Shown) -> dict[str, Any]:
    reply: dict[str, Any] = {"number": shown.number, "fps": None if shown.fps is None else round(shown.fps, 1)}
    if shown.frame is not None:
        reply["record"] = frame_record(shown.frame)
        labels = shown.frame.faces[0].emotion.probabilities if shown.frame.faces else ()
        reply["colours"] = {
            label: f"rgb({red} {green} {blue})" for label, (blue, green, red) in colours(labels).items()
        }
        if shown.image is not None:
            reply["jpeg"] = base64.b64encode(_jpeg(annotate(shown.image, shown.frame.faces))).decode()
    return reply


def _jpeg(image: Image) -> bytes:
    scale = MAX_SIDE / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
