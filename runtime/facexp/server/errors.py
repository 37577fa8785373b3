"""Why a request is not answered: one reason for REST and gRPC, and nothing in it about the machine."""

from __future__ import annotations

import enum

from facexp.errors import FacexpError


class Code(enum.IntEnum):
    """gRPC's status codes, as far as they are used here."""

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
"""What REST answers for each; nobody is there to read a 499."""


class RequestError(FacexpError):
    """A request that is not answered; its text goes to the client."""

    code = Code.INVALID_ARGUMENT

    @property
    def http_status(self) -> int:
        """What REST answers."""
        return HTTP_STATUS[self.code]


class BadRequest(RequestError):  # noqa: N818
    """What is asked makes no sense."""


class NotFound(RequestError):  # noqa: N818
    """There is no such model, version or signature."""

    code = Code.NOT_FOUND


class TooLarge(RequestError):  # noqa: N818
    """The request or a picture in it is larger than is taken; gRPC itself says the same of a message."""

    code = Code.RESOURCE_EXHAUSTED

    @property
    def http_status(self) -> int:
        """413, which does not ask to try again."""
        return 413


class Busy(RequestError):  # noqa: N818
    """More is asked at a time than is taken; later it may go."""

    code = Code.RESOURCE_EXHAUSTED


class TooLate(RequestError):  # noqa: N818
    """The answer would come after the deadline."""

    code = Code.DEADLINE_EXCEEDED


class Gone(RequestError):  # noqa: N818
    """Who asked has closed the connection."""

    code = Code.CANCELLED


class Stopping(RequestError):  # noqa: N818
    """The server ends, or is not ready yet."""

    code = Code.UNAVAILABLE


class Unknown(RequestError):  # noqa: N818
    """Who asks has not shown the token."""

    code = Code.UNAUTHENTICATED


class Failure(RequestError):  # noqa: N818
    """A fault of the server's own; what it was stands in its log."""

    code = Code.INTERNAL
