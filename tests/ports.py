"""Ports of this machine: free ones, and some where nobody answers."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_FIRST = 20_000
_GIVEN = {30_000}
"""Given away by this process, or the backend's own default."""


def free_port() -> int:
    """A port that nobody has, nor gets by chance before whoever asked listens there.

    Linux gives ports of a range to those who connect, and to those who bind to port 0: this one
    lies below it.
    """
    candidates = range(_FIRST, _least_ephemeral())
    for port in random.sample(candidates, len(candidates)):
        if port not in _GIVEN and _is_free(port):
            _GIVEN.add(port)
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _least_ephemeral() -> int:
    """The first port that the system gives by itself; 0 where that is not known."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("utf-8").split()[0])
    except OSError:
        return 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


@contextmanager
def refusing() -> Iterator[str]:
    """URL of a port that refuses every connection, and that nobody else can take meanwhile."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound and not listening
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


@contextmanager
def never_accepting() -> Iterator[str]:
    """URL of a port that drops every connection, as behind a silent firewall."""
    with ExitStack() as closing:
        full = closing.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # more than the backlog holds, so that a further SYN is dropped
            filler = closing.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield f"http://127.0.0.1:{full.getsockname()[1]}"
