"""A port of this machine to be served on."""

from __future__ import annotations

import ipaddress
import socket


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket on a host name or address of this machine; port 0 takes a free one. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
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
    return not ipaddress.ip_address(opened.getsockname()[0]).is_loopback


def host_and_port(host: str, port: int) -> str:
    """Both as an address writes them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
