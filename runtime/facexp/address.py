"""Names that are no files: cameras, streams, standard input; and what of a name may be shown."""

from __future__ import annotations

import re

STDIN = "-"
"""The name of standard input."""

SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "tcp", "udp")
"""The addresses that are streams."""

_LONGEST = 100

_CAMERA = re.compile(r"\d{1,2}|/dev/video\d+")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
# cameras take them as parts of the query, and some of the path
_WORDS = "user|usr|login|pas|psw|pwd|pw|auth|token|hdn|hmac|key|secret|sig|cred|session|streamid|jwt"
_NAMED = rf"((?:(?<![^/?&;=#])(?:u|p|pin|code)|[^/?&;=#]*(?:sid|(?:{_WORDS})[^/?&;=#]*)))="
_IN_PATH = re.compile(_NAMED + r"[^/&;#]*", re.IGNORECASE)
# a password may hold what should have been escaped, but for the sign that parts it from the next
_IN_QUERY = re.compile(_NAMED + r"[^&]*", re.IGNORECASE)
# user:password@ in what is no address; C:\x@2.jpg is none
_LOGIN = re.compile(r".*:[^/\\].*@", re.DOTALL)


def is_live(name: str) -> bool:
    """Whether the name is a camera (0, /dev/video0) or the address of a stream."""
    return _CAMERA.fullmatch(name) is not None or _ADDRESS.match(name) is not None


def address_problem(name: str) -> str | None:
    """Why the address of a live source is none that can be opened; None where it can be tried."""
    address = _ADDRESS.match(name)
    if not name.isprintable():
        return "is an address with characters that cannot be printed or are not valid UTF-8: write them as %XX"
    if address is None or address[1].lower() in SCHEMES:
        return None
    return f"is an address of an unknown kind: {', '.join(SCHEMES)} are read"


def shown(name: str) -> str:
    """The name without the user names and passwords of an address; any other name as it is."""
    address = _ADDRESS.match(name)
    if address is None:
        return name
    # the last @, because a password may hold one that should have been escaped
    _, at, rest = address[2].rpartition("@")
    return f"{address[1]}://" + ("***@" if at else "") + _without_secrets(rest)


def mistyped(name: str) -> str:
    """A name that leads to nothing as it may be shown: it may have been meant for an address with a password."""
    name = _LOGIN.sub("***@", name)
    return _without_secrets(name) if ":/" in name or "***@" in name else name


def _without_secrets(rest: str) -> str:
    path, mark, query = rest.partition("?")
    return _IN_PATH.sub(r"\1=***", path) + mark + _IN_QUERY.sub(r"\1=***", query)


def printable(name: str) -> str:
    """The name as it can be printed on one line: quoted and escaped where it holds control or broken characters."""
    return name if name.isprintable() else ascii(name)


def as_utf8(name: str) -> str:
    """The name as valid UTF-8, as every file and terminal takes it: what is not is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def file_name(name: str) -> str:
    """A name for results of a live source or standard input: letters, digits, - and _, nothing secret."""
    if name == STDIN:
        return "stdin"
    plain = re.sub(r"[^\w]+", "-", shown(name).replace("***", "")).strip("-")
    # file systems count bytes
    return f"camera-{plain}" if plain.isdecimal() else plain.encode()[:_LONGEST].decode(errors="ignore")
