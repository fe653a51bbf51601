"""What the client sees when the model server is down, slow, limited, cut off, or talks garbage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.backend import BackendProcess, backend
from tests.openai_server import OpenAIServer, Reply

KEY = "sk-e2e-secret-0123456789"
LIMITS = {
    "LLM_FIRST_TOKEN_TIMEOUT": "1",
    "LLM_IDLE_TIMEOUT": "1",
    "LLM_TOTAL_TIMEOUT": "8",
    "LLM_MAX_ATTEMPTS": "2",
    "LLM_CONNECT_TIMEOUT": "1",
}


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, upstream: OpenAIServer
) -> Iterator[BackendProcess]:
    """A backend with nothing ingested and one provider that has no stand-in."""
    folder = tmp_path_factory.mktemp("gateway")
    settings = {
        "LLM_PROVIDER": "openai",
        "LLM_FALLBACK": "none",
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": upstream.url,
    }
    with backend(folder, **settings, **LIMITS) as running:
        yield running


def ask(gateway: BackendProcess, **more: Any) -> Any:
    body = {"messages": [{"role": "user", "content": "Tell me something."}], **more}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60)


def failure(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert KEY not in answer.text
    return error


CASES = [
    pytest.param([Reply.error(500)] * 2, 502, "upstream_error", id="failing"),
    pytest.param([Reply(stall="headers")] * 2, 504, "upstream_timeout", id="silent"),
    pytest.param([Reply(stall="first_token")] * 2, 504, "upstream_timeout", id="no first token"),
    pytest.param(
        [Reply.error(429, headers={"retry-after": "60"})], 429, "rate_limit_exceeded", id="limited"
    ),
    pytest.param([Reply.error(401)], 502, None, id="wrong key"),
    pytest.param([Reply.html()] * 2, 502, "upstream_broken", id="a web page"),
    pytest.param([Reply(cut="first_token")] * 2, 502, "upstream_broken", id="cut at once"),
]


@pytest.mark.parametrize(("replies", "status", "code"), CASES)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_before_the_first_word_it_is_a_status(
    gateway: BackendProcess,
    upstream: OpenAIServer,
    replies: list[Reply],
    status: int,
    code: str | None,
    stream: bool,
) -> None:
    upstream.script(*replies)
    before = len(upstream.chats)
    answer = ask(gateway, stream=stream)
    assert answer.status_code == status, answer.text
    error = failure(answer)
    if code:
        assert error["code"] == code
    assert answer.headers["x-should-retry"] == "false"
    assert len(upstream.chats) - before == len(replies)
    if status == 429:
        assert answer.headers["retry-after"] == "60"


def test_a_short_retry_after_is_waited_for(gateway: BackendProcess, upstream: OpenAIServer) -> None:
    upstream.script(Reply.error(429, headers={"retry-after": "1"}), Reply("Here I am."))
    answer = ask(gateway)
    assert answer.json()["choices"][0]["message"]["content"] == "Here I am."


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        pytest.param(Reply(cut="middle"), "upstream_broken", id="cut"),
        pytest.param(Reply(stall="middle"), "upstream_timeout", id="stalled"),
        pytest.param(Reply(garbage=True), "upstream_broken", id="garbage"),
        pytest.param(Reply(finish_reason=None), "upstream_broken", id="no finish"),
    ],
)
def test_in_the_middle_it_is_an_error_event(
    gateway: BackendProcess, upstream: OpenAIServer, reply: Reply, code: str
) -> None:
    upstream.script(reply)
    before = len(upstream.chats)
    answer = ask(gateway, stream=True)
    assert answer.status_code == 200
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert f'"code":"{code}"' in events[-2]
    assert len(upstream.chats) - before == 1, "text must never be sent twice"


def test_the_sdk_raises_when_a_stream_is_cut(
    gateway: BackendProcess, upstream: OpenAIServer
) -> None:
    upstream.script(Reply(cut="middle"))
    with gateway.client() as client:
        stream = client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "Tell me."}], stream=True
        )
        with pytest.raises(openai.APIError):
            list(stream)


def test_the_sdks_own_retries_do_not_multiply_ours(
    gateway: BackendProcess, upstream: OpenAIServer
) -> None:
    upstream.script(*[Reply.error(500)] * 2)
    before = len(upstream.chats)
    with (
        gateway.client().with_options(max_retries=2) as client,
        pytest.raises(openai.InternalServerError),
    ):
        client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "Tell me."}]
        )
    assert len(upstream.chats) - before == int(LIMITS["LLM_MAX_ATTEMPTS"])


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_client_that_leaves_frees_the_upstream(
    gateway: BackendProcess, upstream: OpenAIServer, stream: bool
) -> None:
    upstream.script(Reply(stall="first_token"))
    body = {"messages": [{"role": "user", "content": "Tell me."}], "stream": stream}
    before = len(upstream.chats)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=0.3)
    upstream.wait_for(lambda server: len(server.chats) > before)
    assert upstream.chats[before].disconnected.wait(5)


def test_a_model_server_that_is_down_is_stood_in_for(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("down")
    settings = {"LOCAL_LLM_API_URL": "http://127.0.0.1:9", "LLM_MAX_ATTEMPTS": "1"}
    with backend(folder, **settings) as running:
        answer = ask(running)
        assert answer.status_code == 200
        assert answer.json()["provider"] == "extractive"
        assert "[!!] Provider 'local'" in running.output()
        refused = ask(running, model="local", messages=[{"role": "user", "content": "Xin chào"}])
        assert refused.status_code == 200
