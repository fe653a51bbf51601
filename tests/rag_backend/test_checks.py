"""How each dependency is looked at; the round itself is tested in test_readiness.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from rag_backend.checks import provider_dependencies
from rag_backend.errors import UpstreamMisconfigured
from rag_backend.llm.complete import complete
from rag_backend.llm.registry import Registry, build_registry
from rag_backend.metrics import Metrics
from rag_backend.readiness import Readiness
from rag_backend.settings import load_settings
from tests.openai_server import OpenAIServer, Reply
from tests.rag_backend.llm.support import ASK


class Watched:
    """One provider of a server, and what `/health/ready` says of it."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._readiness = Readiness(Metrics(), 30)
        self._readiness.watch(provider_dependencies(registry))

    async def ask(self) -> str:
        completion = await complete(self.registry.resolve(None)[0], ASK)
        return str(completion["provider"])

    async def fail(self) -> None:
        with pytest.raises(UpstreamMisconfigured):
            await self.ask()

    async def status(self) -> str:
        await self._readiness.look()
        return self._readiness.status

    @property
    def reasons(self) -> str:
        return str(self._readiness.report()["missing"])


@pytest.fixture
async def watched() -> AsyncIterator[Any]:
    made: list[Registry] = []

    def build(**settings: Any) -> Watched:
        made.append(build_registry(load_settings(llm_max_attempts=1, **settings)))
        return Watched(made[-1])

    with OpenAIServer() as server:
        yield server, build
    for registry in made:
        await registry.aclose()


async def test_a_model_that_the_cloud_does_not_have(watched: Any) -> None:
    server, build = watched
    one = build(openai_api_key="sk-test", openai_base_url=server.url, openai_model="gpt-odd")
    assert await one.status() == "ready"
    server.script(Reply.error(404, "no such model", code="model_not_found"))
    await one.fail()
    assert await one.status() == "degraded"
    assert "Check OPENAI_MODEL and OPENAI_BASE_URL" in one.reasons

    server.models = ["gpt-odd"]  # it is there now: nobody has to ask to find that out
    assert await one.status() == "ready"


async def test_a_refused_key_lasts_until_it_is_taken(watched: Any) -> None:
    server, build = watched
    one = build(openai_api_key="sk-test", openai_base_url=server.url)
    server.models = ["gpt-4o-mini"]  # some show their list to everybody
    server.script(Reply.error(401))
    await one.fail()
    assert await one.status() == "degraded"
    assert "OPENAI_API_KEY" in one.reasons
    assert await one.ask() == "openai"
    assert await one.status() == "ready"


async def test_a_server_of_the_lan_shows_its_list_to_its_key_only(watched: Any) -> None:
    server, build = watched
    one = build(local_llm_api_url=server.url, local_llm_api_key="wrong")
    server.default, server.models_raw = Reply.error(401), (401, "{}")
    assert await one.status() == "unready", "before anybody has asked"
    assert "refused the API key. Check LOCAL_LLM_API_KEY." in one.reasons
    server.default, server.models_raw = Reply(), None
    assert await one.status() == "ready"


async def test_a_stand_ins_key_degrades(watched: Any) -> None:
    server, build = watched
    with OpenAIServer() as other:
        other.models_raw = (401, "{}")
        cloud = {"openai_api_key": "sk-test", "openai_base_url": other.url}
        one = build(
            local_llm_api_url=server.url, llm_provider="local", llm_fallback="openai", **cloud
        )
        assert await one.status() == "degraded"


async def test_of_two_hosts_one_may_refuse_the_key(watched: Any) -> None:
    server, build = watched
    with OpenAIServer() as other:
        other.models_raw = (401, "{}")
        one = build(local_llm_api_url=f"{server.url},{other.url}")
        assert await one.status() == "degraded"
