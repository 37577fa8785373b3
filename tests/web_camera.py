"""A camera on the loopback interface, like cheap network cameras: JPEGs over HTTP, with user name and password.

Like real cameras it can stall, break the connection off, refuse it, and come back.
"""

from __future__ import annotations

import base64
import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import cv2
import numpy as np

USER, PASSWORD = "admin", "s3cret"


class WebCamera:
    """Serves `images` in turn, each for 1 / `fps` seconds, until the end of its `with` block.

    For an image without pixels it sends a frame without content.
    """

    def __init__(self) -> None:
        self.fps = 60.0
        self.images = [np.full((48, 64, 3), 80, np.uint8)]
        self.plan: list[tuple[int, str]] = []
        """The next streams: each "stalls" or "ends" after a number of frames, or is "refused" (with 0 frames).

        Streams after those go on indefinitely.
        """
        self.requested = threading.Event()
        """Set when a client has requested a stream, with the password."""
        self.sent = 0
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def address(self) -> str:
        """Address of the stream, with user name and password."""
        return f"http://{USER}:{PASSWORD}@127.0.0.1:{self._server.server_port}/video?pwd={PASSWORD}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    camera._answer(self)

        return Handler

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {login}":
            # FFmpeg first sends a request without the password
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="camera"')
            request.end_headers()
            return
        frames, event = self.plan.pop(0) if self.plan else (None, "")
        self.requested.set()
        if event == "refused":
            request.send_response(503)
            request.end_headers()
            return
        if frames != 0:
            request.send_response(200)
            request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            request.end_headers()
        count = 0
        while count != frames and not self._closing.is_set():
            image = self.images[self.sent % len(self.images)]
            jpeg = cv2.imencode(".jpg", image)[1].tobytes() if image.size else b""
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            request.wfile.write(head.encode() + jpeg + b"\r\n")
            self.sent += 1
            count += 1
            self._closing.wait(1 / self.fps)
        if event == "stalls":
            self._closing.wait()
