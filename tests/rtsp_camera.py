"""An RTSP camera on the loopback interface: MJPEG in RTP (RFC 2435) over the RTSP connection, with a password."""

from __future__ import annotations

import base64
import contextlib
import itertools
import socketserver
import struct
import threading
import time
from typing import Self

import cv2
import numpy as np

USER, PASSWORD = "admin", "s3cret"
WIDTH, HEIGHT, FPS = 64, 48, 25

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    f"m=video 0 RTP/AVP 26\r\na=framerate:{FPS}\r\na=control:track1\r\n"
)


class RtspCamera:
    """Streams gray frames that grow brighter. If `first` is given, the first stream ends after that many frames."""

    def __init__(self, first: int | None = None) -> None:
        self.streams = itertools.count()
        self.first = first
        self.closing = threading.Event()
        camera = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    camera._serve(self)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        """Address of the stream, with user name and password."""
        return f"rtsp://{USER}:{PASSWORD}@127.0.0.1:{self._server.server_address[1]}/live"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, client: socketserver.StreamRequestHandler) -> None:
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        while line := client.rfile.readline().decode():
            method = line.split()[0]
            headers = {}
            while header := client.rfile.readline().decode().strip():
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            status, answer, body = "200 OK", {"CSeq": headers["cseq"], "Session": "1"}, ""
            if headers.get("authorization") != f"Basic {login}" and method != "OPTIONS":
                status = "401 Unauthorized"
                answer["WWW-Authenticate"] = 'Basic realm="camera"'
            elif method == "OPTIONS":
                answer["Public"] = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"
            elif method == "DESCRIBE":
                body = SDP
                answer |= {"Content-Type": "application/sdp", "Content-Length": str(len(SDP))}
            elif method == "SETUP":
                answer["Transport"] = "RTP/AVP/TCP;unicast;interleaved=0-1"
            head = "".join(f"{name}: {value}\r\n" for name, value in answer.items())
            client.wfile.write(f"RTSP/1.0 {status}\r\n{head}\r\n{body}".encode())
            if method == "PLAY":
                self._play(client)
                return

    def _play(self, client: socketserver.StreamRequestHandler) -> None:
        frames = self.first if next(self.streams) == 0 else None
        for number in itertools.count():
            if number == frames or self.closing.is_set():
                return
            jpeg = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 20 + number % 200, np.uint8))[1].tobytes()
            payload = struct.pack(">IBBBB", 0, 1, 255, WIDTH // 8, HEIGHT // 8) + _tables(jpeg) + _scan(jpeg)
            # payload type 26 (JPEG) with the marker bit of a frame's last packet
            stamp = number * 90000 // FPS
            packet = struct.pack(">BBHII", 0x80, 0x80 | 26, number & 0xFFFF, stamp & 0xFFFFFFFF, 1) + payload
            client.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
            time.sleep(1 / FPS)


def _tables(jpeg: bytes) -> bytes:
    """Return the two quantization tables of a JPEG, after RFC 2435's header for them."""
    tables = b""
    position = 2
    while jpeg[position + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", jpeg, position + 2)
        if jpeg[position + 1] == 0xDB:
            segment = jpeg[position + 4 : position + 2 + length]
            tables += b"".join(segment[start + 1 : start + 65] for start in range(0, len(segment), 65))
        position += 2 + length
    return struct.pack(">BBH", 0, 0, len(tables)) + tables


def _scan(jpeg: bytes) -> bytes:
    """Return the compressed data of a JPEG, without headers and the end marker."""
    start = jpeg.index(b"\xff\xda")
    (length,) = struct.unpack_from(">H", jpeg, start + 2)
    return jpeg[start + 2 + length : -2]
