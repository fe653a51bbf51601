"""What the client sees when the model server is down, limited, cut off, or talks garbage."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest
from openai import OpenAI

from tests.e2e.backend import PATIENCE, BackendProcess, backend
from tests.e2e.gateway import ATTEMPTS, ask, failure, messages, statuses
from tests.llm_offline.processes import free_port
from tests.openai_server import OpenAIServer, Reply

pytestmark = pytest.mark.slow

plain_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])

CASES = [
    pytest.param([Reply.error(500)] * 2, 502, "upstream_error", id="failing"),
    pytest.param(
        [Reply.error(429, headers={"retry-after": "60"})], 429, "rate_limit_exceeded", id="limited"
    ),
    pytest.param(
        [Reply.error(503, headers={"retry-after": "60"})], 503, "upstream_unavailable", id="busy"
    ),
    pytest.param([Reply.error(401)], 502, "upstream_key_refused", id="wrong key"),
    pytest.param([Reply.html()] * 2, 502, "upstream_broken", id="a web page"),
    pytest.param([Reply(cut="first_token")] * 2, 502, "upstream_broken", id="cut at once"),
    pytest.param([Reply("")] * 2, 502, "upstream_broken", id="empty"),
    pytest.param(
        [Reply("", finish_reason=None, done=False)] * 2, 502, "upstream_broken", id="nothing at all"
    ),
]


@pytest.mark.parametrize(("replies", "status", "code"), CASES)
@plain_and_streamed
def test_before_the_first_word_it_is_a_status(
    gateway: BackendProcess,
    upstream: OpenAIServer,
    replies: list[Reply],
    status: int,
    code: str,
    stream: bool,
) -> None:
    upstream.script(*replies)
    before = len(upstream.chats)
    answer = ask(gateway, stream=stream)
    assert answer.status_code == status, answer.text
    assert failure(answer)["code"] == code
    assert len(upstream.chats) - before == len(replies)
    if replies[0].headers:
        assert answer.headers["retry-after"] == "60"


def test_a_short_retry_after_is_waited_for(gateway: BackendProcess, upstream: OpenAIServer) -> None:
    for status in (429, 503):
        reply = Reply.error(status, headers={"retry-after": "1"})
        upstream.script(reply, Reply("Here I am."))
        answer = ask(gateway)
        assert answer.json()["choices"][0]["message"]["content"] == "Here I am."


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(cut="middle"), id="cut"),
        pytest.param(Reply(garbage=True), id="garbage"),
        pytest.param(Reply(finish_reason=None), id="no finish"),
        pytest.param(Reply(finish_reason=None, done=False), id="neither finish nor done"),
        pytest.param(Reply(failure={"message": "out of memory"}), id="error event"),
    ],
)
@plain_and_streamed
def test_in_the_middle_it_is_an_error_event(
    gateway: BackendProcess, upstream: OpenAIServer, reply: Reply, stream: bool
) -> None:
    upstream.script(reply)
    before = len(upstream.chats)
    answer = ask(gateway, stream=stream)
    assert answer.status_code == (200 if stream else 502)
    assert failure(answer)["code"] == "upstream_broken"
    assert len(upstream.chats) - before == 1, "text must never be sent twice"


def test_a_whole_answer_needs_no_done(gateway: BackendProcess, upstream: OpenAIServer) -> None:
    upstream.script(Reply("Here I am.", done=False))
    assert ask(gateway).json()["choices"][0]["finish_reason"] == "stop"


def test_the_sdk_raises_when_a_stream_is_cut(
    gateway: BackendProcess, upstream: OpenAIServer
) -> None:
    upstream.script(Reply(cut="middle"))
    with gateway.client() as client:
        stream = client.chat.completions.create(model="any", messages=messages(), stream=True)
        with pytest.raises(openai.APIError):
            list(stream)


FAILURES = [
    *(pytest.param(Reply.error(status), id=str(status)) for status in (408, 409, 429, 500, 503)),
    pytest.param(Reply(cut="headers"), id="hung up"),
    pytest.param(Reply(cut="first_token"), id="cut"),
    pytest.param(Reply(stall="headers"), id="silent"),
    pytest.param(Reply(stall="first_token"), id="no first token"),
    pytest.param(Reply(""), id="empty"),
    pytest.param(Reply(finish_reason=None), id="no finish"),
    pytest.param(Reply(stall="middle"), id="stalled"),
]


def _with_the_sdks_own_retries(gateway: BackendProcess, model: str, stream: bool) -> str:
    """The SDK as people use it: it tries again twice where it sees fit; its requests' id."""
    marked = {"x-request-id": uuid4().hex}
    url = f"{gateway.url}/v1"
    with OpenAI(base_url=url, api_key="none", default_headers=marked) as client:
        assert client.max_retries == 2

        def read() -> list[Any]:
            completions: Any = client.chat.completions
            return list(completions.create(model=model, messages=messages(), stream=stream))

        with pytest.raises(openai.APIError):
            read()
    return marked["x-request-id"]


@pytest.mark.parametrize("reply", FAILURES)
@plain_and_streamed
def test_the_sdks_own_retries_do_not_multiply_ours(
    gateway: BackendProcess, upstream: OpenAIServer, reply: Reply, stream: bool
) -> None:
    upstream.default = reply
    asked = len(upstream.chats)
    try:
        request_id = _with_the_sdks_own_retries(gateway, "any", stream)
    finally:
        upstream.default = Reply()
    shown = reply.stall == "middle" or (reply.finish_reason is None and reply.text)
    assert len(upstream.chats) - asked == (1 if shown else ATTEMPTS)
    assert len(statuses(gateway, request_id)) == 1


@pytest.mark.parametrize("model", ["refused", "dropped"])
@plain_and_streamed
def test_nor_where_no_connection_can_be_made(
    gateway: BackendProcess, model: str, stream: bool
) -> None:
    request_id = _with_the_sdks_own_retries(gateway, model, stream)
    assert len(statuses(gateway, request_id)) == 1


def _local(running: BackendProcess) -> Any:
    return httpx.get(f"{running.url}/v1/providers/local", timeout=60).json()


def test_a_model_server_that_is_down_is_stood_in_for_until_it_is_back(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder, port = tmp_path_factory.mktemp("down"), free_port()
    settings = {
        "LOCAL_LLM_API_URL": f"http://127.0.0.1:{port}",
        "LLM_MAX_ATTEMPTS": "1",
        "LLM_BREAKER_THRESHOLD": "2",
        "LLM_PROBE_INTERVAL": "0.5",
    }
    with backend(folder, **settings) as running:
        for _ in range(2):
            answer = ask(running)
            assert answer.status_code == 200
            assert answer.json()["provider"] == "extractive"
        assert "[!!] Provider 'local'" in running.output()
        refused = ask(running, model="local", messages=[{"role": "user", "content": "Xin chào"}])
        assert refused.status_code == 200
        assert _local(running)["state"] == "down"

        with OpenAIServer(port) as back:
            back.wait_for(lambda server: bool(server.requests))
            assert back.chats == []  # it is looked at without a completion
            deadline = time.monotonic() + PATIENCE
            while _local(running)["hosts"][0]["breaker"] == "open":
                assert time.monotonic() < deadline
            assert ask(running).json()["provider"] == "local"
            assert _local(running)["state"] == "ready"
