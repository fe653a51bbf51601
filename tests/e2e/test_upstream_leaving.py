"""A client that hangs up frees the model server within a second, wherever its request is."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.e2e.backend import BackendProcess
from tests.e2e.gateway import ask, messages
from tests.openai_server import OpenAIServer, Place, Reply


def _asking(gateway: BackendProcess, stream: bool) -> socket.socket:
    """A connection on which a question was sent, and nothing read."""
    address = urlsplit(gateway.url)
    body = json.dumps({"messages": messages(), "stream": stream}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    client = socket.create_connection((address.hostname, address.port), timeout=10)
    client.sendall(head.encode() + body)
    return client


PLACES: list[Place] = ["headers", "first_token", "middle"]


@pytest.mark.parametrize("place", PLACES, ids=["queue", "prefill", "generation"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_client_that_leaves_frees_the_upstream(
    gateway: BackendProcess, upstream: OpenAIServer, stream: bool, place: Place
) -> None:
    upstream.script(Reply(stall=place))
    before = len(upstream.chats)
    with _asking(gateway, stream):
        upstream.wait_for(lambda server: len(server.chats) > before)
    assert upstream.chats[before].disconnected.wait(1)
    assert ask(gateway).status_code == 200  # and what the next one asks is not held up
    assert len(upstream.chats) == before + 2  # nobody asked again for the one that left
