"""Where we listen: the socket, opened before anything is loaded, who holds the port if we cannot,
and whether a URL is our own."""

from __future__ import annotations

import errno
import socket
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

import psutil

from rag_backend.errors import StartError

_NOT_OURS = (
    "HOST={} is not an address of this machine: set HOST to one that is, or to 0.0.0.0 for all of "
    "them."
)


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket; raises StartError with the reason.

    It listens at once, so that a second start is told so, and clients wait instead of failing
    while the first one loads.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise StartError(_NOT_OURS.format(host)) from error
    listener = socket.socket(family, kind, protocol)
    if sys.platform != "win32":  # there it would let two servers share the port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _notice_the_vanished(listener)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise StartError(_reason(host, port, error)) from error
    return listener


def is_own(url: str, host: str, port: int) -> bool:
    """Whether a URL leads to who listens on `host` and `port` here.

    Other names are asked for only where the port is the same.
    """
    parts = urlsplit(url)
    if (parts.port or {"http": 80, "https": 443}.get(parts.scheme)) != port or not parts.hostname:
        return False
    theirs = _addresses(parts.hostname)
    ours = _addresses(host)
    if any(address.is_unspecified for address in ours):
        ours = {a for name in _interfaces() for a in _addresses(name)}
        return any(address.is_loopback or address in ours for address in theirs)
    return not theirs.isdisjoint(ours)


def _addresses(host: str) -> set[IPv4Address | IPv6Address]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return set()
    return {ip_address(str(item[4][0]).partition("%")[0]) for item in found}


def _interfaces() -> list[str]:
    """This machine's own addresses."""
    families = (socket.AF_INET, socket.AF_INET6)
    return [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in families
    ]


def _notice_the_vanished(listener: socket.socket) -> None:
    """Connections inherit it: a machine that was switched off says nothing by itself."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":  # elsewhere after two hours
        for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15)):
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def _reason(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is in use by {_holder(port)}: stop it, or set PORT to a free one."
    if error.errno == errno.EACCES:
        return f"Port {port} may not be opened by this user: set PORT to one above 1023."
    if error.errno == errno.EADDRNOTAVAIL:
        return _NOT_OURS.format(host)
    return f"HOST={host} PORT={port} cannot be listened on: {error.strerror or error}."


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            local = connection.laddr
            if connection.status == psutil.CONN_LISTEN and local and local.port == port:
                if connection.pid is None:
                    break
                process = psutil.Process(connection.pid)
                command = " ".join(process.cmdline())[:80] or process.name()
                return f"process {connection.pid} ({command})"
    except psutil.Error:
        pass
    return "another program"
