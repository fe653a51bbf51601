"""A client that hangs up frees the model server before any time limit, wherever its request is."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.e2e.backend import PATIENCE, BackendProcess
from tests.e2e.gateway import ask, asking, messages, statuses
from tests.openai_server import OpenAIServer, Place, Reply

PLACES: list[Place] = ["headers", "first_token", "middle"]


@pytest.mark.parametrize("place", PLACES, ids=["queue", "prefill", "generation"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_client_that_leaves_frees_the_upstream(
    gateway: BackendProcess, upstream: OpenAIServer, stream: bool, place: Place
) -> None:
    upstream.script(Reply(stall=place))
    before = len(upstream.chats)
    body, request_id = {"messages": messages(), "stream": stream}, uuid4().hex
    with asking(gateway, body, **{"x-request-id": request_id}):
        upstream.wait_for(lambda server: len(server.chats) > before)
    assert upstream.chats[before].disconnected.wait(PATIENCE)
    assert statuses(gateway, request_id) == [499]  # the client's leaving; a limit's is 504
    assert ask(gateway).status_code == 200  # and what the next one asks is not held up
    assert len(upstream.chats) == before + 2  # nobody asked again for the one that left
