"""Each time limit, against a model server that stalls exactly there."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.e2e.backend import PATIENCE, BackendProcess, backend
from tests.e2e.gateway import ATTEMPTS, ask, failure, messages
from tests.openai_server import OpenAIServer, Reply

plain_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])

LOADING = Reply.error(503, "m is still loading: 40 %", code="loading")

STALLS = [
    pytest.param(Reply(stall="headers"), "LLM_FIRST_TOKEN_TIMEOUT", ATTEMPTS, id="headers"),
    pytest.param(
        Reply(stall="first_token", comments=3), "LLM_FIRST_TOKEN_TIMEOUT", ATTEMPTS, id="first"
    ),
    pytest.param(Reply(stall="middle"), "LLM_IDLE_TIMEOUT", 1, id="between"),
    pytest.param(Reply(stall="end"), "LLM_IDLE_TIMEOUT", 1, id="finish"),
    pytest.param(Reply(drip=0.1), "LLM_TOTAL_TIMEOUT", 1, id="dripping"),
]


@pytest.mark.parametrize(("reply", "setting", "requests"), STALLS)
@plain_and_streamed
def test_a_server_that_stalls(
    gateway: BackendProcess,
    upstream: OpenAIServer,
    reply: Reply,
    setting: str,
    requests: int,
    stream: bool,
) -> None:
    upstream.script(*[reply] * requests)
    before = len(upstream.chats)
    answer = ask(gateway, stream=stream)
    shown = stream and requests == 1
    assert answer.status_code == (200 if shown else 504)
    error = failure(answer)
    assert error["code"] == "upstream_timeout"
    assert f"({setting})" in error["message"]
    assert len(upstream.chats) - before == requests
    for chat in upstream.chats[before:]:
        assert chat.disconnected.wait(PATIENCE)  # nobody goes on computing for it


@plain_and_streamed
def test_a_server_that_never_accepts(gateway: BackendProcess, stream: bool) -> None:
    answer = ask(gateway, model="dropped", stream=stream)
    assert answer.status_code == 504
    assert "(LLM_CONNECT_TIMEOUT)" in failure(answer)["message"]


@plain_and_streamed
def test_a_loading_model_is_waited_for(
    gateway: BackendProcess, upstream: OpenAIServer, stream: bool
) -> None:
    upstream.script(LOADING, LOADING, Reply("Here I am."))  # asked once a second
    answer = ask(gateway, stream=stream)
    assert answer.status_code == 200
    assert "Here" in answer.text


@pytest.mark.slow  # a comment comes after 15 s of silence
def test_the_client_sees_keep_alive_comments_meanwhile(
    tmp_path_factory: pytest.TempPathFactory, upstream: OpenAIServer
) -> None:
    settings = {
        "LOCAL_LLM_API_URL": upstream.url,
        "LLM_FALLBACK": "none",
        "LLM_FIRST_TOKEN_TIMEOUT": "2",
        "LLM_MAX_ATTEMPTS": "1",
    }
    body: dict[str, Any] = {"messages": messages(), "stream": True}
    upstream.default = LOADING
    with backend(tmp_path_factory.mktemp("loading"), **settings) as running:
        url = f"{running.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith(":")
            upstream.default = Reply("Here I am.")
            rest = list(lines)
        providers = httpx.get(f"{running.url}/v1/providers/local", timeout=60).json()
    text = [line for line in rest if line.startswith("data: ")]
    assert text[-1] == "data: [DONE]"
    assert any("Here" in line for line in text)
    assert not any('"error"' in line for line in text)
    assert providers["hosts"][0]["failures_in_a_row"] == 0
