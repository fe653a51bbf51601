"""Retries: counted where they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rag_backend.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from rag_backend.llm.balancing import Balanced
from rag_backend.llm.openai_compatible import OpenAICompatible
from rag_backend.llm.provider import LLMProvider
from rag_backend.llm.retrying import Retrying
from rag_backend.llm.rows import ProviderRow
from rag_backend.patience import Patience
from tests.openai_server import OpenAIServer, Reply
from tests.rag_backend.llm.support import (
    ROLE,
    Scripted,
    collect,
    delta,
    endpoint,
    loading,
    saying,
    text_before_error,
    text_of,
)


def _retrying(provider: LLMProvider, attempts: int = 3, total: float = 60, **more: int) -> Retrying:
    patience = Patience(
        attempts=attempts,
        total=total,
        loading=60,
        first_wait=0.001,
        longest_wait=0.01,
        **more,
    )
    return Retrying(provider, patience)


@pytest.fixture
async def upstream(server: OpenAIServer) -> AsyncIterator[OpenAICompatible]:
    row = ProviderRow("local", base_urls=(f"{server.url}/v1",), model="m")
    provider = OpenAICompatible(row, row.base_urls[0], connect_timeout=2)
    yield provider
    await provider.aclose()


PASSING = [
    Reply.error(408),
    Reply.error(409),
    Reply.error(429),
    Reply.error(500),
    Reply.error(502),
    Reply.error(503),
    Reply(cut="headers"),
    Reply(cut="first_token"),
    Reply.html(),
    Reply(failure={"message": "boom"}, fail_at="first_token"),
]
FINAL = [Reply.error(status) for status in (400, 401, 403, 404, 422)]


@pytest.mark.parametrize("reply", PASSING, ids=lambda r: str(r)[:40])
async def test_what_may_pass_is_tried_again(
    upstream: OpenAICompatible, server: OpenAIServer, reply: Reply
) -> None:
    server.script(reply, reply)
    chunks = await collect(_retrying(upstream))
    assert text_of(chunks) == Reply().text
    assert len(server.chats) == 3
    roles = [c for chunk in chunks for c in chunk["choices"] if "role" in c["delta"]]
    assert len(roles) == 1  # what a failed attempt had sent is not shown


@pytest.mark.parametrize("reply", PASSING, ids=lambda r: str(r)[:40])
async def test_never_more_requests_than_attempts(
    upstream: OpenAICompatible, server: OpenAIServer, reply: Reply
) -> None:
    server.default = reply
    await text_before_error(_retrying(upstream), UpstreamError)
    assert len(server.chats) == 3


@pytest.mark.parametrize("reply", FINAL, ids=lambda r: str(r.status))
async def test_a_refusal_is_final(
    upstream: OpenAICompatible, server: OpenAIServer, reply: Reply
) -> None:
    server.default = reply
    await text_before_error(_retrying(upstream), UpstreamRefused)
    assert len(server.chats) == 1


@pytest.mark.parametrize("reply", [Reply(cut="middle"), Reply(finish_reason=None)])
async def test_nothing_is_tried_again_after_the_first_text(
    upstream: OpenAICompatible, server: OpenAIServer, reply: Reply
) -> None:
    server.default = reply
    text, _ = await text_before_error(_retrying(upstream), UpstreamBroken)
    assert text.startswith("Employees ")
    assert len(server.chats) == 1


async def test_retry_after_that_fits_is_waited_for(
    upstream: OpenAICompatible, server: OpenAIServer
) -> None:
    server.script(Reply.error(429, headers={"retry-after-ms": "20"}))
    assert text_of(await collect(_retrying(upstream))) == Reply().text
    assert len(server.chats) == 2


async def test_retry_after_past_the_deadline_ends_it_at_once(
    upstream: OpenAICompatible, server: OpenAIServer
) -> None:
    server.default = Reply.error(429, headers={"retry-after": "3600"})
    _, error = await text_before_error(_retrying(upstream, total=5), UpstreamLimited)
    assert isinstance(error, UpstreamLimited)
    assert error.retry_after == 3600
    assert error.headers() == {"x-should-retry": "false", "retry-after": "3600"}
    assert len(server.chats) == 1


async def test_retry_after_counts_on_any_status(
    upstream: OpenAICompatible, server: OpenAIServer
) -> None:
    server.default = Reply.error(503, headers={"retry-after": "3600"})
    _, error = await text_before_error(_retrying(upstream, total=5), UpstreamUnavailable)
    assert isinstance(error, UpstreamUnavailable)
    assert error.headers() == {"x-should-retry": "false", "retry-after": "3600"}
    assert len(server.chats) == 1
    server.default = Reply()
    server.script(Reply.error(503, headers={"retry-after-ms": "20"}))
    assert text_of(await collect(_retrying(upstream, total=5))) == Reply().text


async def test_an_open_breaker_is_not_waited_for() -> None:
    script = Scripted([UpstreamUnavailable("down")])
    host = endpoint(script, threshold=2)
    provider = _retrying(host.provider, attempts=5)
    _, error = await text_before_error(provider, UpstreamUnavailable)
    assert "After 2 failures in a row" in str(error)
    assert len(script.requests) == 2


async def test_a_loading_host_does_not_hold_up_the_other() -> None:
    slow, quick = Scripted([loading()]), Scripted(saying("Twelve."))
    patience = Patience(attempts=1, hosts=2, total=7200, loading=7200, loading_wait=3600)
    provider = Retrying(Balanced([endpoint(slow), endpoint(quick)]), patience)
    assert text_of(await collect(provider)) == "Twelve."


async def test_a_spent_quota_is_not_waited_for(
    upstream: OpenAICompatible, server: OpenAIServer
) -> None:
    server.default = Reply.error(429, code="insufficient_quota")
    await text_before_error(_retrying(upstream), UpstreamLimited)
    assert len(server.chats) == 1


async def test_timeouts_are_tried_again() -> None:
    script = Scripted([ROLE, UpstreamTimeout("slow")], saying("Twelve."))
    assert text_of(await collect(_retrying(script))) == "Twelve."


async def test_the_deadline_holds_across_attempts() -> None:
    script = Scripted([0.03, UpstreamTimeout("slow")])
    await text_before_error(_retrying(script, attempts=10, total=0.05), UpstreamTimeout)
    assert len(script.requests) <= 2


async def test_other_errors_pass_through() -> None:
    script = Scripted([KeyError("a defect of ours")])
    await text_before_error(_retrying(script), KeyError)
    assert len(script.requests) == 1


async def test_a_loading_model_is_asked_past_the_number_of_attempts() -> None:
    script = Scripted(*[[loading()]] * 8, saying("Twelve."))
    provider = Retrying(script, Patience(attempts=1, total=60, loading=60, loading_wait=0.001))
    assert text_of(await collect(provider)) == "Twelve."
    assert len(script.requests) == 9


async def test_a_model_that_goes_on_loading_is_given_up() -> None:
    script = Scripted([loading()])
    provider = Retrying(script, Patience(attempts=3, total=60, loading=0.5))
    await text_before_error(provider, UpstreamUnavailable)
    assert len(script.requests) == 1


async def test_the_next_host_is_asked_at_once() -> None:
    down = Scripted([UpstreamUnavailable("down")])
    up = Scripted(saying("Twelve."))
    # A wait would be an hour long: the other host must not be waited for.
    patience = Patience(attempts=1, hosts=2, total=7200, loading=60, first_wait=3600)
    provider = Retrying(Balanced([endpoint(down), endpoint(up)]), patience)
    assert text_of(await collect(provider)) == "Twelve."
    assert (len(down.requests), len(up.requests)) == (1, 1)


async def test_every_attempt_gets_the_same_request() -> None:
    script = Scripted([UpstreamBroken("cut")], [delta(content="x")])
    await collect(_retrying(script))
    assert script.requests[0] is script.requests[1]
