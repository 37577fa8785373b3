"""Reasons for refusing a request, shared by REST and gRPC; their texts reveal nothing about the machine."""

from __future__ import annotations

import enum

from facexp.errors import FacexpError


class Code(enum.IntEnum):
    """The gRPC status codes that are used here."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


HTTP_STATUS = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.RESOURCE_EXHAUSTED: 503,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}
"""HTTP status of the REST answer for each code. No client receives a 499: it has disconnected."""


class RequestError(FacexpError):
    """The request is refused; the text of the error is sent to the client."""

    code = Code.INVALID_ARGUMENT

    @property
    def http_status(self) -> int:
        """HTTP status of the REST answer."""
        return HTTP_STATUS[self.code]


class BadRequest(RequestError):  # noqa: N818
    """The request is malformed."""


class NotFound(RequestError):  # noqa: N818
    """There is no such model, version or signature."""

    code = Code.NOT_FOUND


class TooLarge(RequestError):  # noqa: N818
    """The request or a picture in it exceeds a size limit; gRPC itself uses the same code for too large a message."""

    code = Code.RESOURCE_EXHAUSTED

    @property
    def http_status(self) -> int:
        """413 instead of 503, since a retry would fail as well."""
        return 413


class Busy(RequestError):  # noqa: N818
    """Too many requests, or too much data, at a time; a retry may succeed later."""

    code = Code.RESOURCE_EXHAUSTED


class DeadlineExceeded(RequestError):  # noqa: N818
    """The deadline passed before the answer was ready."""

    code = Code.DEADLINE_EXCEEDED


class Disconnected(RequestError):  # noqa: N818
    """The client has closed the connection."""

    code = Code.CANCELLED


class Stopping(RequestError):  # noqa: N818
    """The server is stopping, or not ready yet."""

    code = Code.UNAVAILABLE


class Unauthenticated(RequestError):  # noqa: N818
    """The client has not shown the token."""

    code = Code.UNAUTHENTICATED


class Failure(RequestError):  # noqa: N818
    """An internal error; the details are only in the server's log."""

    code = Code.INTERNAL
