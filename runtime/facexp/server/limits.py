"""How much the server takes at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from facexp.server.errors import Busy

_REQUESTS_IN_MEMORY = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused. Raises ValueError for a value that is not above 0."""

    request_bytes: int = 16 << 20
    """A larger body or message is refused."""
    pixels: int = 50_000_000
    """A picture of more pixels is refused before it is decoded."""
    queue: int = 256
    """So many requests to a model may be under way, waiting ones included; the next is refused."""
    timeout_s: float = 30.0
    """A request that takes longer, its body's way here included, is given up; a gRPC client may ask for less. An HTTP
    connection on which for so long nothing is being answered is cut, and one whose answers are not taken."""
    drain_s: float = 30.0
    """At the end so long is waited for the answers to what was taken; what is left is refused."""

    def __post_init__(self) -> None:
        for name in ("request_bytes", "pixels", "queue", "timeout_s", "drain_s"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")

    @property
    def memory_bytes(self) -> int:
        """What all requests under way may hold together, before their pictures are decoded."""
        return _REQUESTS_IN_MEMORY * self.request_bytes


class Gate:
    """Lets in so much at a time, and refuses what is more. Belongs to one asyncio loop."""

    def __init__(self, most: int, busy: str) -> None:
        """`busy` is what a refusal says."""
        self._most, self._busy = most, busy
        self._empty = asyncio.Event()
        self._empty.set()
        self.held = 0

    @contextlib.contextmanager
    def holding(self, amount: int = 0) -> Iterator[Callable[[int], None]]:
        """Hold so much until the `with` block ends; the function that it gives takes more. Raises Busy."""
        own = 0

        def take(more: int) -> None:
            nonlocal own
            if self.held + more > self._most:
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
