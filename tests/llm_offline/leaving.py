"""A client that goes away."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.llm_offline.processes import ServerProcess


@contextmanager
def unread(running: ServerProcess, path: str, body: dict[str, Any]) -> Iterator[None]:
    """A client that asks, and goes away at the end without having read anything."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.sendall(head.encode() + content)
        yield
    # The server's loop has seen the end once it has answered what came after it, some times over.
    for _ in range(5):
        running.health()
