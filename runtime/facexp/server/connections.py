"""HTTP connections with a timeout: uvicorn alone waits indefinitely for the rest of a request."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


def connection_with_timeout(seconds: float) -> type[H11Protocol]:
    """Return a uvicorn connection class whose connections are cut after `seconds` without a request in progress.

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
