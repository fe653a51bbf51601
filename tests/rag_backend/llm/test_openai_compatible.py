"""The adapter: what it sends, and what each failure of an upstream becomes."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from pydantic import SecretStr

from rag_backend.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamLimited,
    UpstreamMisconfigured,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from rag_backend.llm.openai_compatible import OpenAICompatible
from rag_backend.llm.provider import ChatRequest
from rag_backend.llm.rows import ProviderRow
from rag_backend.upstream import LOADING, with_version
from tests.openai_server import OpenAIServer, Reply
from tests.ports import never_accepting, refusing
from tests.rag_backend.llm.support import ASK, collect, delta, finish, text_before_error, text_of

KEY = "sk-proj-AbCdEfGhIjKlMnOp-9876"


def _row(url: str, key: str = KEY, model: str | None = "m") -> ProviderRow:
    return ProviderRow(
        "local",
        base_urls=(with_version(url),),
        api_key=SecretStr(key) if key else None,
        model=model,
        url_setting="LOCAL_LLM_API_URL",
        key_setting="LOCAL_LLM_API_KEY",
        model_setting="LOCAL_LLM_MODEL",
    )


def _adapter(row: ProviderRow) -> OpenAICompatible:
    return OpenAICompatible(row, row.base_urls[0], connect_timeout=2)


@pytest.fixture
async def adapter(server: OpenAIServer) -> AsyncIterator[OpenAICompatible]:
    provider = _adapter(_row(server.url))
    yield provider
    await provider.aclose()


async def test_sends_the_request_as_it_is(adapter: OpenAICompatible, server: OpenAIServer) -> None:
    options = {"temperature": 0, "stop": ["\n"], "seed": 7, "unheard_of": {"a": 1}}
    chunks = await collect(adapter, ChatRequest(ASK.messages, options))

    assert text_of(chunks) == Reply().text
    (sent,) = server.chats
    assert sent.path == "/v1/chat/completions"
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.body == {
        **options,
        "model": "m",
        "messages": list(ASK.messages),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_the_requests_own_model_is_sent(
    adapter: OpenAICompatible, server: OpenAIServer
) -> None:
    await collect(adapter, ChatRequest(ASK.messages, model="bigger"))
    assert server.chats[0].body["model"] == "bigger"


async def test_without_a_key_nothing_of_the_environment_is_sent(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "sk-of-another-house")
    provider = _adapter(_row(server.url, key=""))
    await collect(provider)
    await provider.aclose()

    assert "authorization" not in server.chats[0].headers
    assert "sk-of-another-house" not in str(server.chats[0].headers)


async def test_unknown_fields_and_comments_survive(
    adapter: OpenAICompatible, server: OpenAIServer
) -> None:
    server.script(Reply("one two", logprobs={"content": [{"token": "a"}]}, comments=3))
    chunks = await collect(adapter)
    assert chunks[1]["choices"][0]["logprobs"] == {"content": [{"token": "a"}]}
    assert text_of(chunks) == "one two"


async def test_the_servers_first_model_is_looked_up_once(server: OpenAIServer) -> None:
    server.models = ["served", "other"]
    provider = _adapter(_row(server.url, model=None))
    await asyncio.gather(collect(provider), collect(provider))
    await provider.aclose()

    assert [r.body["model"] for r in server.chats] == ["served", "served"]
    assert [r.path for r in server.requests].count("/v1/models") == 1


async def test_a_server_that_lists_no_models_is_asked_for_the_default(server: OpenAIServer) -> None:
    server.models = []
    provider = _adapter(_row(server.url, model=None))
    await asyncio.gather(collect(provider), collect(provider))
    await provider.aclose()
    assert [r.body["model"] for r in server.chats] == ["default", "default"]
    assert [r.path for r in server.requests].count("/v1/models") == 1


async def test_a_model_that_is_gone_is_looked_up_again(server: OpenAIServer) -> None:
    provider = _adapter(_row(server.url, model=None))
    await collect(provider)
    server.models = ["newer"]
    server.script(Reply.error(404, "no such model", code="model_not_found"))
    await text_before_error(provider, UpstreamRefused)
    await collect(provider)
    await provider.aclose()
    assert [r.body["model"] for r in server.chats] == ["tiny-upstream", "tiny-upstream", "newer"]


REFUSALS = [
    (Reply.error(400, "too long", code="context_length_exceeded", param="messages"), 400),
    (Reply.error(413, "too large"), 413),
    (Reply.error(422, "no such field"), 422),
]


@pytest.mark.parametrize(("reply", "status"), REFUSALS, ids=lambda v: str(v)[:40])
async def test_refusals_keep_status_code_and_param(
    adapter: OpenAICompatible, server: OpenAIServer, reply: Reply, status: int
) -> None:
    server.script(reply)
    _, error = await text_before_error(adapter, UpstreamRefused)
    assert isinstance(error, UpstreamRefused)
    assert error.status == status
    wanted = reply.failure or {}
    assert error.code == (wanted.get("code") or "upstream_refused")
    assert error.param == wanted.get("param")
    assert error.client_status == status


_WRONG_KEY = {"message": "Incorrect API key", "type": "x", "code": "invalid_api_key"}
MISCONFIGURED = [
    (
        Reply.error(401, f"Incorrect API key: {KEY[:10]}****{KEY[-4:]}.", code="invalid_api_key"),
        "refused the API key of this backend (401), not a client's: correct LOCAL_LLM_API_KEY "
        "where the backend runs.",
        "upstream_key_refused",
    ),
    (Reply.error(402, "no funds"), 'payment (402): "no funds". See', "upstream_misconfigured"),
    (
        Reply.error(403, "Country not supported.", code="unsupported_country", param="x"),
        'does not let this backend in (403): "Country not supported". Check LOCAL_LLM_API_KEY '
        "where the backend runs.",
        "upstream_key_refused",
    ),
    (
        Reply.error(404, "no such model", code="model_not_found", param="model"),
        'model or address (404): "no such model". Check LOCAL_LLM_MODEL and LOCAL_LLM_API_URL '
        "where the backend runs.",
        "upstream_not_found",
    ),
    (Reply.html(404), "no such model or address (404). Check", "upstream_not_found"),
    (Reply.html(405), "Check LOCAL_LLM_API_URL where", "upstream_misconfigured"),
    (
        Reply(failure=_WRONG_KEY, fail_at="first_token"),
        "refused the API key of this backend (401)",
        "upstream_key_refused",
    ),
    (
        Reply(failure={"message": "No auth", "code": 403}, fail_at="first_token"),
        "does not let this backend in (403)",
        "upstream_key_refused",
    ),
]


@pytest.mark.parametrize(("reply", "words", "code"), MISCONFIGURED, ids=lambda v: str(v)[:40])
async def test_what_is_set_wrong_here_is_no_fault_of_the_client(
    adapter: OpenAICompatible, server: OpenAIServer, reply: Reply, words: str, code: str
) -> None:
    server.script(reply)
    _, error = await text_before_error(adapter, UpstreamMisconfigured)
    assert isinstance(error, UpstreamMisconfigured)
    assert words in str(error)
    assert (error.client_status, error.type) == (502, "api_error")
    assert (error.code, error.param) == (code, None)
    assert KEY[-4:] not in str(error)


async def test_a_server_that_wants_a_key_where_there_is_none(server: OpenAIServer) -> None:
    server.script(Reply.error(401))
    provider = _adapter(_row(server.url, key=""))
    _, error = await text_before_error(provider, UpstreamMisconfigured)
    await provider.aclose()
    assert "wants an API key (401), and this backend has none for it: set LOCAL" in str(error)


FAILURES = [
    (Reply.error(500, "boom"), UpstreamError, "failed (500)"),
    (Reply.html(502), UpstreamError, "failed (502)"),
    (Reply.error(408, "slow"), UpstreamError, "failed (408)"),
    (Reply.error(409, "busy"), UpstreamError, "failed (409)"),
    (Reply.error(503, "overloaded"), UpstreamUnavailable, "not ready (503)"),
    (Reply(cut="headers"), UpstreamUnavailable, "closed the connection"),
    (Reply.html(), UpstreamBroken, "web page"),
    (Reply(raw='{"object": "chat.completion"}'), UpstreamBroken, "instead of a stream"),
    (Reply(raw="data: nonsense\n\n", content_type="text/event-stream"), UpstreamBroken, "JSON"),
    (Reply(raw="data: [1]\n\n", content_type="text/event-stream"), UpstreamBroken, "completion"),
    (Reply(raw="data: {}\n\n", content_type="text/event-stream"), UpstreamBroken, "completion"),
    (Reply(raw="", content_type="text/event-stream"), UpstreamBroken, "finish_reason"),
]


@pytest.mark.parametrize(("reply", "kind", "words"), FAILURES, ids=lambda v: str(v)[:40])
async def test_failures_before_any_text(
    adapter: OpenAICompatible,
    server: OpenAIServer,
    reply: Reply,
    kind: type[UpstreamError],
    words: str,
) -> None:
    server.script(reply)
    text, error = await text_before_error(adapter, UpstreamError)
    assert (text, type(error)) == ("", kind)
    assert words in str(error)
    assert str(error).startswith(f"Provider 'local' at {server.url}/v1 ")


MIDDLE = [
    (Reply(cut="middle"), "broke the connection"),
    (Reply(cut="end"), "broke the connection"),
    (Reply(finish_reason=None), "without a finish_reason"),
    (Reply(finish_reason=None, done=False), "without a finish_reason"),
    (Reply(garbage=True), "not JSON"),
    (Reply(failure={"message": f"boom {KEY}"}), "reported an error"),
]


@pytest.mark.parametrize(("reply", "words"), MIDDLE, ids=lambda v: str(v)[-60:])
async def test_failures_after_some_text(
    adapter: OpenAICompatible, server: OpenAIServer, reply: Reply, words: str
) -> None:
    server.script(reply)
    text, error = await text_before_error(adapter, UpstreamError)
    assert text.startswith("Employees ")
    assert type(error) is UpstreamBroken
    assert words in str(error)


async def test_an_error_event_that_blames_the_request_is_a_refusal(
    adapter: OpenAICompatible, server: OpenAIServer
) -> None:
    failure = {"message": "no", "type": "invalid_request_error", "code": "x", "param": "messages"}
    server.script(Reply(failure=failure, fail_at="first_token"))
    _, error = await text_before_error(adapter, UpstreamRefused)
    assert isinstance(error, UpstreamRefused)
    assert (error.status, error.code, error.param) == (400, "x", "messages")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
async def test_a_limit_carries_the_wait(
    adapter: OpenAICompatible,
    server: OpenAIServer,
    headers: dict[str, str],
    seconds: float | None,
) -> None:
    server.script(Reply.error(429, "slow down", headers=headers))
    _, error = await text_before_error(adapter, UpstreamLimited)
    assert isinstance(error, UpstreamLimited)
    assert error.retry_after == seconds


@pytest.mark.parametrize("status", [500, 503])
async def test_any_failure_may_carry_a_wait(
    adapter: OpenAICompatible, server: OpenAIServer, status: int
) -> None:
    server.script(Reply.error(status, headers={"retry-after": "7"}))
    _, error = await text_before_error(adapter, UpstreamError)
    assert isinstance(error, UpstreamError)
    assert error.retry_after == 7.0


@pytest.mark.parametrize(
    ("reply", "blamed"),
    [
        (Reply.error(500), True),
        (Reply.error(503), True),
        (Reply(cut="headers"), True),
        (Reply(cut="middle"), True),
        (Reply.html(), True),
        (Reply.error(503, code="loading"), False),
        *((Reply.error(status), False) for status in (400, 401, 404, 408, 409, 422, 429)),
        (Reply(""), False),
    ],
    ids=lambda v: str(v)[:40],
)
async def test_what_a_host_is_blamed_for(
    adapter: OpenAICompatible, server: OpenAIServer, reply: Reply, blamed: bool
) -> None:
    server.script(reply)
    _, error = await text_before_error(adapter, UpstreamError)
    assert isinstance(error, UpstreamError)
    assert error.host_failed is blamed


@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
async def test_an_empty_answer_is_a_failure(
    adapter: OpenAICompatible, server: OpenAIServer, reason: str
) -> None:
    server.script(Reply("", finish_reason=reason))
    _, error = await text_before_error(adapter, UpstreamBroken)
    assert "sent an empty answer" in str(error)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_an_empty_answer_may_have_its_reason(
    adapter: OpenAICompatible, server: OpenAIServer, reason: str
) -> None:
    server.script(Reply("", finish_reason=reason))
    chunks = await collect(adapter)
    assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"]][-1] == reason


async def test_a_stop_string_may_come_first_of_all(
    adapter: OpenAICompatible, server: OpenAIServer
) -> None:
    server.script(Reply(""))
    assert text_of(await collect(adapter, ChatRequest(ASK.messages, {"stop": ["Twelve"]}))) == ""


async def test_text_that_comes_with_the_finish_is_no_silence(
    adapter: OpenAICompatible, server: OpenAIServer
) -> None:
    event = finish() | {
        "choices": [{"index": 0, "delta": {"content": "Hi"}} | {"finish_reason": "stop"}]
    }
    body = f"data: {json.dumps(event)}\n\n"  # and no [DONE]: the answer is whole without it
    server.script(Reply(raw=body, content_type="text/event-stream"))
    assert text_of(await collect(adapter)) == "Hi"


@pytest.mark.parametrize("begun", [False, True])
async def test_a_loading_model_is_told_apart(
    adapter: OpenAICompatible, server: OpenAIServer, begun: bool
) -> None:
    """By its status, or by an event where keep-alive comments were sent before."""
    event = {"error": {"message": "the model is loading", "code": "loading"}}
    told = Reply(raw=f"data: {json.dumps(event)}\n\n", content_type="text/event-stream")
    refused = Reply.error(503, "the model is loading", code="loading")
    server.script(told if begun else refused)
    _, error = await text_before_error(adapter, UpstreamUnavailable)
    assert isinstance(error, UpstreamUnavailable)
    assert error.code == LOADING


async def test_nobody_listens() -> None:
    with refusing() as url:
        provider = _adapter(_row(url))
        _, error = await text_before_error(provider, UpstreamUnavailable)
        await provider.aclose()
    assert "cannot be reached" in str(error)
    assert "LOCAL_LLM_API_URL" in str(error)


async def test_a_name_that_does_not_exist() -> None:
    provider = _adapter(_row("http://no-such-host.invalid:8001"))
    _, error = await text_before_error(provider, UpstreamError)
    await provider.aclose()
    assert isinstance(error, UpstreamUnavailable | UpstreamTimeout)


async def test_no_connection_within_the_limit() -> None:
    with never_accepting() as url:
        row = _row(url)
        provider = OpenAICompatible(row, row.base_urls[0], connect_timeout=0.2)
        _, error = await text_before_error(provider, UpstreamTimeout)
        await provider.aclose()
    assert "0.2 s (LLM_CONNECT_TIMEOUT)" in str(error)


async def test_a_port_that_does_not_speak_http() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        await reader.read(1)
        writer.close()

    ssh = await asyncio.start_server(greet, "127.0.0.1", 0)
    provider = _adapter(_row(f"http://127.0.0.1:{ssh.sockets[0].getsockname()[1]}"))
    _, error = await text_before_error(provider, UpstreamError)
    await provider.aclose()
    ssh.close()
    await ssh.wait_closed()
    assert "does not speak HTTP" in str(error)


async def test_the_key_appears_nowhere(
    adapter: OpenAICompatible, server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = f"Your key {KEY} (ends in {KEY[-4:]}, begins {KEY[:9]}***) is wrong; Bearer {KEY}"
    for reply in (
        *(Reply.error(status, said) for status in (400, 401, 403, 404, 422, 429, 500, 503)),
        Reply(failure={"message": said}),
        Reply(failure={"message": said}, fail_at="first_token"),
    ):
        server.script(reply)
        _, error = await text_before_error(adapter, UpstreamError)
        shown = "".join(traceback.format_exception(error)) + repr(error)
        for part in (KEY, KEY[:9], KEY[-4:]):
            assert part not in shown
    assert KEY not in caplog.text
    assert KEY not in repr(adapter)


async def test_closing_frees_the_upstream(adapter: OpenAICompatible, server: OpenAIServer) -> None:
    server.script(Reply(stall="middle"))
    async with aclosing(adapter.stream(ASK)) as chunks:
        async for chunk in chunks:
            if text_of([chunk]):
                break
    assert await asyncio.to_thread(server.chats[0].disconnected.wait, 60)
    assert text_of(await collect(adapter)) == Reply().text  # and the client goes on working


async def test_usage_sent_with_the_finish_becomes_a_chunk_of_its_own(
    adapter: OpenAICompatible, server: OpenAIServer
) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    events: list[object] = [
        {"choices": [], "prompt_filter_results": []},
        delta(content="Hi"),
        {**finish(), "usage": usage},
    ]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    server.script(Reply(raw=body, content_type="text/event-stream"))
    chunks = await collect(adapter)

    assert [bool(chunk["choices"]) for chunk in chunks] == [True, True, False]
    assert ["usage" in chunk for chunk in chunks] == [False, False, True]


@pytest.mark.parametrize("status", [301, 307])
async def test_no_redirect_is_followed(
    adapter: OpenAICompatible, server: OpenAIServer, status: int
) -> None:
    with OpenAIServer() as elsewhere:
        location = {"location": f"{elsewhere.url}/v1/chat/completions"}
        server.script(Reply(raw="", status=status, headers=location))
        _, error = await text_before_error(adapter, UpstreamBroken)
        assert f"redirects elsewhere ({status})" in str(error)
        assert elsewhere.requests == []


async def test_what_is_meant_for_the_lan_goes_through_no_proxy(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        provider = _adapter(_row(server.url))
        await collect(provider)
        await provider.aclose()
        assert proxy.requests == []
    assert len(server.chats) == 1
