"""Connections to the server and the preview: limits on their time and number, which uvicorn alone lacks."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# the number of files that may be open, where the system does not say it
_OPEN_FILES = 1024
# uvicorn's own default
_BACKLOG = 2048


def connection_settings(seconds: float) -> dict[str, Any]:
    """Return the settings of `uvicorn.Config` that limit the connections in time, as below, and in number.

    They use at most half of the files that the process may open, so that cameras, models and results can still be
    opened; further connections are closed at once. Otherwise, clients that only connect would use up all files, and
    asyncio would log thousands of lines a second about it.
    """
    files = _open_files()
    # asyncio accepts a whole backlog before the first of its connections can be closed
    return {"http": _connection(seconds, most=files // 2), "backlog": min(_BACKLOG, max(1, files // 8))}


def rpc_connections() -> int:
    """Return how many gRPC connections are accepted, a quarter of the files that the process may open."""
    return max(1, _open_files() // 4)


def _open_files() -> int:
    if sys.platform == "win32":
        return _OPEN_FILES
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _OPEN_FILES if soft == resource.RLIM_INFINITY else soft


def _connection(seconds: float, most: int) -> type[H11Protocol]:
    """Return a uvicorn connection class whose connections are cut after `seconds` without a request in progress.

    A connection beyond the first `most` is closed at once.

    The time runs from the start of the connection, or from the end of the last answer, to the end of the next request's
    head, even if single bytes keep arriving. How long a request's body and its answer may take is not limited here. If
    parts of an answer have not been sent yet, the connection is cut once the client has accepted none of them for
    `seconds`; since this is checked every `seconds`, that happens before twice the time has passed.
    """

    class Connection(H11Protocol):
        _idle_timer: asyncio.TimerHandle | None = None
        _unsent_bytes = 0
        """Number of unsent bytes in the write buffer at the last check."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()
            else:
                self._restart_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._restart_timer()

        def _restart_timer(self) -> None:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            self._idle_timer = self.loop.call_later(seconds, self._on_timeout)

        def _on_timeout(self) -> None:
            unsent_before, self._unsent_bytes = self._unsent_bytes, self.transport.get_write_buffer_size()
            if self._unsent_bytes and self._unsent_bytes != unsent_before:
                # the client is still receiving the last answer
                self._restart_timer()
            elif self._unsent_bytes or self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return Connection
