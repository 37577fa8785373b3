"""Who may ask: this machine alone, unless there is a token or certificates for the clients."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path

from facexp.errors import FacexpError
from facexp.server.errors import Unknown

TOKEN_VARIABLE = "FACEXP_TOKEN"
"""The environment variable that may hold the token."""
LEAST_TOKEN = 16
"""A shorter token is refused, in characters."""

_SCHEME = "bearer"


class ServerError(FacexpError):
    """The server cannot be started as it was asked for."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files for encrypted connections."""

    certificate: Path
    key: Path
    clients: Path | None = None
    """The authority whose certificates the clients must show (mutual TLS); None asks them for none."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a client must show. Raises ServerError for a token that is too short or not printable ASCII."""

    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if self.token is None:
            return
        if not (self.token.isascii() and self.token.isprintable()) or " " in self.token:
            raise ServerError("the token must be of printable ASCII characters without blanks")
        if len(self.token) < LEAST_TOKEN:
            raise ServerError(f"the token has {len(self.token)} characters: give at least {LEAST_TOKEN}, by chance")

    @property
    def closed(self) -> bool:
        """Whether a stranger who reaches the port gets no answer."""
        return self.token is not None or (self.tls is not None and self.tls.clients is not None)

    def check(self, header: str | None) -> None:
        """Raises Unknown unless an Authorization header or gRPC metadata entry shows the token, if there is one."""
        if self.token is None:
            return
        scheme, _, shown = (header or "").partition(" ")
        # digests have one length, so that the time to compare tells nothing about the token
        if not hmac.compare_digest(_digest(shown), _digest(self.token)) or scheme.lower() != _SCHEME:
            raise Unknown("show the token: Authorization: Bearer TOKEN")


def read_token(path: Path) -> str:
    """The token in a file, without what is blank round it. Raises ServerError where there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ServerError(f"{path}: the token cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise ServerError(f"{path}: the token must be of printable ASCII characters without blanks") from None


def read_pem(path: Path) -> bytes:
    """The bytes of a certificate or key file. Raises ServerError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ServerError(f"{path}: cannot be read ({error.strerror or error})") from None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
