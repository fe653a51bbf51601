"""The socket: bound before anything is loaded, so that a port in use is told at once."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import psutil

from llm_offline.errors import StartError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        StartError: The address is not this machine's, or the port is taken; says by what.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise StartError(
            f"--host {host}: no such address; use 127.0.0.1, 0.0.0.0 or an address of this machine"
        ) from error
    # `localhost` is both ::1 and 127.0.0.1 on many machines; clients try the latter.
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            # A port whose last owner has just ended is free; on Windows the option means more.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise StartError(_why(error, host, port)) from error
    return listener


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use by {holder(port)}: stop it, or choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} may not be used by this user: choose one above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is not an address of this machine; use 127.0.0.1 or 0.0.0.0"
    return f"{host}:{port} cannot be listened on: {error.strerror or error}"


def holder(port: int) -> str:
    """What listens on a port, in words; other users' processes may stay unknown."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            address: Any = connection.laddr  # (host, port), or () where there is none
            if connection.status == psutil.CONN_LISTEN and address and address[1] == port:
                return _named(connection.pid)
    except (psutil.Error, OSError):
        pass
    return "another process"


def _named(pid: int | None) -> str:
    if pid is None:
        return "a process of another user"
    process = psutil.Process(pid)
    command = process.cmdline()
    # Never the whole command line: it may hold a key.
    module = " ".join(command[1:3]) if command[1:2] == ["-m"] else ""
    return f"{process.name()} {module}".rstrip() + f" (process {pid})"
