"""The whole stack, as it is assembled, against real sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from rag_backend.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamLimited,
    UpstreamMisconfigured,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from rag_backend.llm.breaker import RESTING
from rag_backend.llm.complete import complete
from rag_backend.llm.provider import LLMProvider
from rag_backend.llm.registry import Registry, build_registry
from rag_backend.settings import load_settings
from tests.openai_server import OpenAIServer, Place, Reply
from tests.ports import refusing
from tests.rag_backend.llm.support import ASK, text_before_error


class House:
    """A cloud provider, a local one, and the registry between them."""

    def __init__(self, cloud: OpenAIServer, local: OpenAIServer) -> None:
        self.cloud, self.local = cloud, local
        self.registries: list[Registry] = []

    def provider(self, **values: Any) -> LLMProvider:
        settings = load_settings(
            openai_api_key="sk-test-0123456789",
            openai_base_url=self.cloud.url,
            local_llm_model="m",
            **{"local_llm_api_url": self.local.url, "llm_max_attempts": 2, **values},
        )
        self.registries.append(build_registry(settings))
        return self.registries[-1].resolve(None)[0]

    @property
    def requests(self) -> tuple[int, int]:
        """How many completions each was asked for: (cloud, local)."""
        return len(self.cloud.chats), len(self.local.chats)


@pytest.fixture
def other() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


@pytest.fixture
async def house(server: OpenAIServer, other: OpenAIServer) -> AsyncIterator[House]:
    made = House(server, other)
    yield made
    for registry in made.registries:
        await registry.aclose()


BEFORE_ANY_TEXT = [
    Reply.error(500),
    Reply.error(429, headers={"retry-after": "3600"}),
    Reply(cut="headers"),
    Reply(cut="first_token"),
    Reply(failure={"message": "boom"}, fail_at="first_token"),
    Reply.html(),
]


@pytest.mark.parametrize("reply", BEFORE_ANY_TEXT, ids=lambda r: str(r)[-60:])
async def test_the_next_provider_answers(house: House, reply: Reply) -> None:
    house.cloud.default = reply
    completion = await complete(house.provider(), ASK)
    assert completion["provider"] == "local"
    assert completion["choices"][0]["message"]["content"] == Reply().text
    assert house.requests == (1 if reply.status == 429 else 2, 1)


async def test_the_last_resort_answers(house: House) -> None:
    house.cloud.default = house.local.default = Reply.error(500)
    assert (await complete(house.provider(), ASK))["provider"] == "extractive"
    assert house.requests == (2, 2)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refusal_reaches_nobody_else(house: House, status: int) -> None:
    house.cloud.default = Reply.error(status)
    _, error = await text_before_error(house.provider(), UpstreamRefused)
    assert isinstance(error, UpstreamRefused)
    assert error.status == status
    assert house.requests == (1, 0)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_what_is_set_wrong_here_is_told_and_not_made_up_for(
    house: House, status: int
) -> None:
    house.cloud.default = Reply.error(status)
    _, error = await text_before_error(house.provider(), UpstreamMisconfigured)
    assert isinstance(error, UpstreamMisconfigured)
    assert (error.status, error.client_status) == (status, 502)
    assert house.requests == (1, 0)


async def test_of_two_hosts_the_one_that_takes_the_key_answers(house: House) -> None:
    house.cloud.default = Reply.error(401)
    provider = house.provider(
        llm_provider="local",
        local_llm_api_url=f"{house.cloud.url},{house.local.url}",
        llm_max_attempts=1,
    )
    for _ in range(3):
        assert (await complete(provider, ASK))["provider"] == "local"
    assert house.requests == (1, 3)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return [record.getMessage() for record in records]


async def test_one_cause_is_one_line(house: House, caplog: pytest.LogCaptureFixture) -> None:
    with refusing() as gone:
        provider = house.provider(
            llm_provider="local",
            local_llm_api_url=gone,
            llm_max_attempts=3,
            llm_probe_interval=60,
        )
        for _ in range(3):  # which opens the breaker
            assert (await complete(provider, ASK))["provider"] == "extractive"
    assert warnings(caplog) == [
        f"Provider 'local' at {gone}/v1 cannot be reached: check that a model "
        "server runs there, and LOCAL_LLM_API_URL."
    ]


async def test_another_cause_and_the_same_one_later_have_their_lines(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    wrong, down, sound = Reply.error(401), Reply.error(500), Reply()
    house.local.script(wrong, wrong, down, down, down, sound, wrong)
    provider = house.provider(llm_provider="local", llm_max_attempts=1)
    for _ in range(7):
        with suppress(UpstreamMisconfigured):
            await complete(provider, ASK)
    told = [line.partition("/v1 ")[2].partition(": ")[0] for line in warnings(caplog)]
    key = "wants an API key (401), and this backend has none for it"
    assert told == [key, "failed (500)", key]


@pytest.mark.parametrize("reply", [Reply(cut="middle"), Reply(finish_reason=None)])
async def test_text_is_never_sent_twice(house: House, reply: Reply) -> None:
    house.cloud.default = reply
    text, _ = await text_before_error(house.provider(), UpstreamBroken)
    assert text.startswith("Employees ")
    assert house.requests == (1, 0)


async def test_a_local_choice_never_reaches_the_cloud(house: House) -> None:
    house.local.default = Reply.error(500)
    completion = await complete(house.provider(llm_provider="local"), ASK)
    assert completion["provider"] == "extractive"
    assert house.requests == (0, 2)


async def test_the_cloud_steps_in_where_it_is_listed(house: House) -> None:
    house.local.default = Reply.error(500)
    provider = house.provider(llm_provider="local", llm_fallback="openai")
    assert (await complete(provider, ASK))["provider"] == "openai"
    assert house.requests == (1, 2)


LIMIT = 1.0
"""Seconds, in which a busy machine must have brought the request to the server."""
LIMITS: list[tuple[dict[str, float], Place, int]] = [
    ({"llm_first_token_timeout": LIMIT}, "headers", 2),
    ({"llm_first_token_timeout": LIMIT}, "first_token", 2),
    ({"llm_idle_timeout": LIMIT}, "middle", 1),
    ({"llm_total_timeout": LIMIT}, "headers", 1),
    ({"llm_total_timeout": LIMIT}, "middle", 1),
]


@pytest.mark.parametrize(("limit", "place", "requests"), LIMITS)
async def test_each_limit_names_its_setting(
    house: House, limit: dict[str, float], place: Place, requests: int
) -> None:
    house.cloud.default = Reply(stall=place)
    provider = house.provider(llm_fallback="none", **limit)
    _, error = await text_before_error(provider, UpstreamTimeout)
    (name,) = limit
    assert name.upper() in str(error)
    assert house.requests == (requests, 0)


async def test_a_stalled_provider_is_left_for_the_next(house: House) -> None:
    house.cloud.default = Reply(stall="first_token")
    provider = house.provider(llm_first_token_timeout=2 * LIMIT, llm_max_attempts=1)
    assert (await complete(provider, ASK))["provider"] == "local"


async def test_the_final_error_tells_sdks_not_to_multiply_it(house: House) -> None:
    house.cloud.default = Reply.error(429, headers={"retry-after": "3600"})
    _, error = await text_before_error(house.provider(llm_fallback="none"), UpstreamLimited)
    assert isinstance(error, UpstreamLimited)
    assert error.headers() == {"x-should-retry": "false", "retry-after": "3600"}


async def test_an_open_breaker_leaves_the_host_alone(house: House) -> None:
    house.cloud.default = Reply.error(500)
    provider = house.provider(llm_breaker_threshold=2, llm_probe_interval=60)
    for _ in range(3):
        assert (await complete(provider, ASK))["provider"] == "local"
    assert house.requests == (2, 3)  # from then on it falls back at once


async def test_what_a_client_gets_without_a_stand_in_says_so(house: House) -> None:
    house.cloud.default = Reply.error(500)
    provider = house.provider(llm_fallback="none", llm_breaker_threshold=2, llm_probe_interval=60)
    await text_before_error(provider, UpstreamError)
    _, error = await text_before_error(provider, UpstreamUnavailable)
    assert isinstance(error, UpstreamUnavailable)
    assert (error.client_status, error.code) == (503, RESTING)
    assert error.headers() == {"x-should-retry": "false", "retry-after": "60"}
    assert house.requests == (2, 0)


async def test_a_refused_key_does_not_open_it(house: House) -> None:
    house.cloud.default = Reply.error(401)
    provider = house.provider(llm_breaker_threshold=1)
    for _ in range(3):
        await text_before_error(provider, UpstreamMisconfigured)
    assert house.requests == (3, 0)


async def test_a_host_that_comes_back_is_used_again() -> None:
    with OpenAIServer() as sound:
        with refusing() as gone:
            settings = load_settings(
                local_llm_api_url=f"{gone},{sound.url}",
                local_llm_model="m",
                llm_breaker_threshold=1,
                llm_probe_interval=2,
                llm_fallback="none",
            )
            registry = build_registry(settings)
            provider = registry.resolve(None)[0]
            for _ in range(3):
                await complete(provider, ASK)
            assert len(sound.chats) == 3
            assert registry.info()[0]["hosts"][0]["breaker"] == "open"
            assert registry.info()[0]["state"] == "degraded"

        with OpenAIServer(int(gone.rpartition(":")[2])) as back:
            # The backend looks by itself, and never asks for a completion.
            await asyncio.to_thread(back.wait_for, lambda server: bool(server.requests))
            assert {request.path for request in back.requests} == {"/v1/models"}
            while registry.info()[0]["hosts"][0]["breaker"] == "open":
                await asyncio.sleep(0)
            await complete(provider, ASK)
            assert (len(back.chats), len(sound.chats)) == (1, 3)
            assert registry.info()[0]["hosts"][0]["breaker"] == "closed"
        await registry.aclose()


async def test_an_empty_answer_is_left_for_the_next(house: House) -> None:
    house.cloud.default = Reply("")
    assert (await complete(house.provider(), ASK))["provider"] == "local"
    assert house.requests == (2, 1)


async def test_a_loading_model_is_waited_for_past_the_first_token_limit(house: House) -> None:
    loading = Reply.error(503, "m is still loading", code="loading", headers={"retry-after": "5"})
    house.local.script(loading, loading)
    provider = house.provider(
        llm_provider="local", llm_fallback="none", llm_first_token_timeout=1.5, llm_max_attempts=1
    )
    assert (await complete(provider, ASK))["provider"] == "local"
    assert house.requests == (0, 3)
