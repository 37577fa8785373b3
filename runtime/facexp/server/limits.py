"""Limits on what the server accepts at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from facexp.server.errors import Busy

_REQUESTS_IN_MEMORY = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits above which requests are refused. Raises ValueError for a value that is not above 0."""

    request_bytes: int = 16 << 20
    """Maximum size of an HTTP body or gRPC message."""
    pixels: int = 50_000_000
    """Maximum number of pixels of a picture; one with more is refused before it is decoded."""
    queue: int = 256
    """Maximum number of requests to a model that are under way, queued ones included; the next one is refused."""
    timeout_s: float = 30.0
    """Timeout of a request, the transfer of its body included; a gRPC client may set a shorter deadline. It is also the
    time after which an HTTP connection is cut if no request is in progress or the client does not accept an answer."""
    drain_s: float = 30.0
    """How long a stopping server may take to answer the accepted requests; the rest are then refused."""

    def __post_init__(self) -> None:
        for name in ("request_bytes", "pixels", "queue", "timeout_s", "drain_s"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")

    @property
    def memory_bytes(self) -> int:
        """Maximum memory that all requests under way may hold together, decoded pictures not included."""
        return _REQUESTS_IN_MEMORY * self.request_bytes


class Gate:
    """Bounds a total (requests or bytes) and refuses anything beyond it. Belongs to one asyncio loop."""

    def __init__(self, most: int, busy: str) -> None:
        """`most` is the maximum total; `busy` is the error message of a refusal."""
        self._limit, self._busy = most, busy
        self._empty = asyncio.Event()
        self._empty.set()
        self.held = 0

    @contextlib.contextmanager
    def holding(self, amount: int = 0) -> Iterator[Callable[[int], None]]:
        """Hold `amount` until the `with` block ends; the function that it yields adds more. Both raise Busy."""
        own = 0

        def take(more: int) -> None:
            nonlocal own
            if self.held + more > self._limit:
                raise Busy(self._busy)
            own += more
            self.held += more
            if self.held:
                self._empty.clear()

        try:
            take(amount)
            yield take
        finally:
            self.held -= own
            if not self.held:
                self._empty.set()

    async def emptied(self) -> None:
        """Wait until nothing is held."""
        await self._empty.wait()
