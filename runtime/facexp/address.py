"""Source names that are not files (cameras, streams, standard input), and how to show a name without its secrets."""

from __future__ import annotations

import re

STDIN = "-"
"""The source name of standard input."""

SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "tcp", "udp")
"""The URL schemes that are read as streams."""

_MAX_NAME_BYTES = 100

_CAMERA = re.compile(r"\d{1,2}|/dev/video\d+")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
# parameters whose names suggest a secret: cameras accept them in the query, some also in the path
_SECRET_WORDS = "user|usr|login|pas|psw|pwd|pw|auth|token|hdn|hmac|key|secret|sig|cred|session|streamid|jwt"
_SECRET_PARAMETER = rf"((?:(?<![^/?&;=#])(?:u|p|pin|code)|[^/?&;=#]*(?:sid|(?:{_SECRET_WORDS})[^/?&;=#]*)))="
_SECRET_IN_PATH = re.compile(_SECRET_PARAMETER + r"[^/&;#]*", re.IGNORECASE)
# a password may contain characters that should have been escaped, except for the & that ends the parameter
_SECRET_IN_QUERY = re.compile(_SECRET_PARAMETER + r"[^&]*", re.IGNORECASE)
# user:password@ in a name that is not an address; C:\x@2.jpg does not match
_CREDENTIALS = re.compile(r".*:[^/\\].*@", re.DOTALL)


def is_live(name: str) -> bool:
    """Whether the name is a camera (0, /dev/video0) or an address with any scheme, known or not."""
    return _CAMERA.fullmatch(name) is not None or _ADDRESS.match(name) is not None


def address_problem(name: str) -> str | None:
    """Return why the name of a live source cannot be opened, or None if opening it can be tried."""
    address = _ADDRESS.match(name)
    if not name.isprintable():
        return "is an address with characters that cannot be printed or are not valid UTF-8: write them as %XX"
    if address is None or address[1].lower() in SCHEMES:
        return None
    return f"is an address with an unknown scheme: facexp reads {', '.join(SCHEMES)}"


def redacted(name: str) -> str:
    """Return an address with its user name, password and other secrets as ***; any other name unchanged."""
    address = _ADDRESS.match(name)
    if address is None:
        return name
    # split at the last @, because a password may contain one that should have been escaped
    _, at, rest = address[2].rpartition("@")
    return f"{address[1]}://" + ("***@" if at else "") + _without_secrets(rest)


def redacted_unknown(name: str) -> str:
    """Return, without its secrets, a name that matches no file: it may be a mistyped address with a password."""
    name = _CREDENTIALS.sub("***@", name)
    return _without_secrets(name) if ":/" in name or "***@" in name else name


def _without_secrets(rest: str) -> str:
    path, separator, query = rest.partition("?")
    return _SECRET_IN_PATH.sub(r"\1=***", path) + separator + _SECRET_IN_QUERY.sub(r"\1=***", query)


def printable(name: str) -> str:
    """Return the name for printing on one line: quoted and escaped if it has unprintable or invalid characters."""
    return name if name.isprintable() else ascii(name)


def as_utf8(name: str) -> str:
    """Return the name as text that every file and terminal accepts: what is not valid UTF-8 is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def file_name(name: str) -> str:
    """Return a file name for results of a live source or standard input: letters, digits, - and _, without secrets."""
    if name == STDIN:
        return "stdin"
    plain = re.sub(r"[^\w]+", "-", redacted(name).replace("***", "")).strip("-")
    # file systems limit names in bytes, not characters
    return f"camera-{plain}" if plain.isdecimal() else plain.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
