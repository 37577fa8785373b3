"""A port of this machine to be served on."""

from __future__ import annotations

import errno
import ipaddress
import socket


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket on a host name or address of this machine; port 0 takes a free one. Raises OSError."""
    if host == "*":
        # the resolver takes it for this machine alone, and a check of names for all of them
        raise OSError(errno.EINVAL, "it is no address: 0.0.0.0 and :: stand for all of this machine's")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except UnicodeError:
        raise OSError(errno.EINVAL, "it cannot be the name of a host") from None
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen()
    except OSError:
        opened.close()
        raise
    return opened


def is_public(opened: socket.socket) -> bool:
    """Whether other machines can reach it."""
    address = ipaddress.ip_address(opened.getsockname()[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return not address.is_loopback


def own_names(opened: socket.socket, host: str) -> list[str]:
    """The names under which this machine's browsers find it, as they stand in a Host header; `host` as it was given.

    A page on the internet may point a name of its own at this machine, and read what is served here.
    """
    numeric = str(opened.getsockname()[0])
    return [
        "localhost",
        "127.0.0.1",
        "[::1]",
        *(f"[{name}]" if ":" in name else name for name in (host.lower(), numeric)),
    ]


def host_and_port(host: str, port: int) -> str:
    """Both as an address writes them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
