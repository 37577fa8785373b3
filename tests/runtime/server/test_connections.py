"""Connections that only cost: too many, or with a client that does not read."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from facexp.server.limits import Limits

TIMEOUT_S = 60.0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of open files")
def test_connections_do_not_use_up_the_open_files(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the other protocol, new versions, and the log, which asyncio fills when no files are left."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (32, 32))
    server = start()
    with contextlib.ExitStack() as opened:
        for address, most in ((server.ports.rest.removeprefix("http://"), 16), (server.ports.grpc, 8)):
            host, port = address.split(":")
            idle = [opened.enter_context(socket.create_connection((host, int(port)), TIMEOUT_S)) for _ in range(20)]
            cut: set[socket.socket] = set()
            deadline = time.monotonic() + TIMEOUT_S
            while len(cut) < 20 - most and time.monotonic() < deadline:
                ready = select.select([each for each in idle if each not in cut], [], [], 0.1)[0]
                cut |= {each for each in ready if is_closed(each)}
            assert len(cut) == 20 - most


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True


def test_a_client_that_does_not_read_is_cut_off(start: Callable[..., Any]) -> None:
    """Guards against answers that are never read: their memory and the connection are released."""
    server = start(limits=Limits(timeout_s=0.5))
    host, port = server.ports.rest.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(TIMEOUT_S)
        client.connect((host, int(port)))
        with contextlib.suppress(ConnectionError):
            # more than the sockets' buffers hold
            client.sendall(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1500)
            for _ in range(100):
                client.sendall(b"x")
                threading.Event().wait(0.1)
            raise AssertionError("the connection was never cut")
