"""HTTP connections that end: uvicorn by itself waits for ever for the rest of a request."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


def patient_for(seconds: float) -> type[H11Protocol]:
    """uvicorn's connection, cut where for so long nothing is being answered, whatever comes byte by byte.

    The time runs from the beginning or from the last answer to the end of the next request's head. How long an answer
    may take, with its request's body, is not decided here. Where answers lie ready, it is cut when the client takes
    nothing of them for so long, and before it has been twice as long.
    """

    class Connection(H11Protocol):
        _ending: asyncio.TimerHandle | None = None
        _untaken = 0
        """Bytes of answers that lay ready when it was last looked."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._ending is not None:
                self._ending.cancel()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wait()

        def _wait(self) -> None:
            if self._ending is not None:
                self._ending.cancel()
            self._ending = self.loop.call_later(seconds, self._end)

        def _end(self) -> None:
            before, self._untaken = self._untaken, self.transport.get_write_buffer_size()
            if self._untaken and self._untaken != before:
                # the client is still taking the last answer
                self._wait()
            elif self._untaken or self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return Connection
