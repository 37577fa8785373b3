"""Listening sockets for the preview and the server."""

from __future__ import annotations

import errno
import ipaddress
import socket


def listen(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket on a host name or address of this machine; port 0 takes a free port.

    Raises OSError if that is not possible.
    """
    if host == "*":
        # the resolver reads it as the loopback address, but a check of Host headers reads it as any name
        raise OSError(errno.EINVAL, "it is not an address: use 0.0.0.0 or :: for all addresses of this machine")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except UnicodeError:
        raise OSError(errno.EINVAL, "it is not a valid host name") from None
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
    """Return whether other machines can reach a listening socket."""
    address = ipaddress.ip_address(opened.getsockname()[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return not address.is_loopback


def own_names(opened: socket.socket, host: str) -> list[str]:
    """Return the names, as in a Host header, by which browsers on this machine reach a socket opened for `host`.

    Requests with any other name must be refused: a page on the internet may point a host name of its own at this
    machine in order to read what is served here (DNS rebinding).
    """
    numeric = str(opened.getsockname()[0])
    return [
        "localhost",
        "127.0.0.1",
        "[::1]",
        *(f"[{name}]" if ":" in name else name for name in (host.lower(), numeric)),
    ]


def host_and_port(host: str, port: int) -> str:
    """Return `host:port`, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
