"""Authentication: only this machine gets answers, unless clients show a token or a certificate."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path

from facexp.errors import FacexpError
from facexp.server.errors import Unauthenticated

TOKEN_VARIABLE = "FACEXP_TOKEN"
"""The environment variable that may hold the token."""
MIN_TOKEN_LENGTH = 16
"""Minimum length of a token, in characters; a shorter one is refused."""

_SCHEME = "bearer"


class ServerError(FacexpError):
    """The server cannot be started with these settings."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files for encrypted connections."""

    certificate: Path
    key: Path
    clients: Path | None = None
    """Certificate of the authority that must have signed the clients' certificates (mutual TLS); None: none needed."""


@dataclass(frozen=True, slots=True)
class Access:
    """The credentials that clients must show.

    Raises ServerError for a token that is too short, contains a space or is not printable ASCII.
    """

    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if self.token is None:
            return
        if not (self.token.isascii() and self.token.isprintable()) or " " in self.token:
            raise ServerError("the token must consist of printable ASCII characters without spaces")
        if len(self.token) < MIN_TOKEN_LENGTH:
            raise ServerError(
                f"the token has {len(self.token)} characters: give at least {MIN_TOKEN_LENGTH} random ones"
            )

    @property
    def requires_credentials(self) -> bool:
        """Whether clients without a token or certificate are refused."""
        return self.token is not None or (self.tls is not None and self.tls.clients is not None)

    def check(self, header: str | None) -> None:
        """Check an Authorization header or gRPC metadata entry. Raises Unauthenticated if a set token is not in it."""
        if self.token is None:
            return
        scheme, _, token = (header or "").partition(" ")
        # all digests have the same length, so that the time of the comparison reveals nothing about the token
        if not hmac.compare_digest(_digest(token), _digest(self.token)) or scheme.lower() != _SCHEME:
            raise Unauthenticated("send the token: Authorization: Bearer TOKEN")


def read_token(path: Path) -> str:
    """Return the token in a file, without surrounding whitespace. Raises ServerError if it cannot be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ServerError(f"{path}: the token cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise ServerError(f"{path}: the token must consist of printable ASCII characters without spaces") from None


def read_pem(path: Path) -> bytes:
    """Return the bytes of a certificate or key file. Raises ServerError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ServerError(f"{path}: cannot be read ({error.strerror or error})") from None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
