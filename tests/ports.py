"""Ports of this machine where nobody answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


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
