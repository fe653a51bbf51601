"""Who answers, and who steps in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rag_backend.errors import Conflict, NotFound, StartError, UpstreamUnavailable
from rag_backend.llm.complete import complete
from rag_backend.llm.notes import Note
from rag_backend.llm.provider import ChatRequest
from rag_backend.llm.registry import Registry, build_registry
from rag_backend.llm.rows import ProviderRow
from rag_backend.metrics import Metrics
from rag_backend.settings import load_settings
from tests.openai_server import OpenAIServer, Reply
from tests.rag_backend.llm.support import ASK, collect, text_before_error, text_of

KEY = "sk-very-secret-key"
LOCAL = "http://192.0.2.1:8001"


@pytest.fixture
def providers_file(tmp_path: Path) -> Path:
    file = tmp_path / "providers.toml"
    file.write_text(
        '[providers.ollama]\nbase_url = "http://192.0.2.2:11434"\nmodel = "qwen3:8b"\n'
        f'[providers.groq]\nbase_url = "https://192.0.2.3/v1"\napi_key = "{KEY}"\ncloud = true\n'
    )
    return file


def _chosen_and_fallback(registry: Registry) -> tuple[str, list[str]]:
    return registry.chosen, [row["name"] for row in registry.info() if row["fallback"]]


CHOICES: list[tuple[dict[str, Any], str, list[str]]] = [
    ({}, "extractive", []),
    ({"local_llm_api_url": LOCAL}, "local", ["extractive"]),
    ({"openai_api_key": KEY}, "openai", ["extractive"]),
    ({"openai_api_key": KEY, "local_llm_api_url": LOCAL}, "openai", ["local", "extractive"]),
    (
        {"openai_api_key": KEY, "local_llm_api_url": LOCAL, "llm_provider": "local"},
        "local",
        ["extractive"],  # not openai: nothing leaves the LAN unasked
    ),
    (
        {
            "openai_api_key": KEY,
            "local_llm_api_url": LOCAL,
            "llm_provider": "local",
            "llm_fallback": "openai",
        },
        "local",
        ["openai"],
    ),
    ({"local_llm_api_url": LOCAL, "llm_fallback": "none"}, "local", []),
    ({"local_llm_api_url": LOCAL, "llm_provider": "extractive"}, "extractive", []),
]


@pytest.mark.parametrize(("values", "chosen", "fallback"), CHOICES)
async def test_choice_and_fallback(
    values: dict[str, Any], chosen: str, fallback: list[str]
) -> None:
    registry = build_registry(load_settings(**values))
    assert _chosen_and_fallback(registry) == (chosen, fallback)
    assert registry.resolve(None)[0].name == chosen
    await registry.aclose()


async def test_a_row_of_the_file_can_be_chosen(providers_file: Path) -> None:
    settings = load_settings(
        llm_providers=providers_file, llm_provider="ollama", llm_fallback="groq,extractive"
    )
    registry = build_registry(settings)
    assert _chosen_and_fallback(registry) == ("ollama", ["groq", "extractive"])
    await registry.aclose()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"llm_provider": "openai"}, "LLM_PROVIDER=openai needs OPENAI_API_KEY"),
    ({"llm_provider": "local"}, "LLM_PROVIDER=local needs LOCAL_LLM_API_URL"),
    ({"llm_provider": "olama"}, "LLM_PROVIDER=olama is not allowed: it should be one of auto, "),
    ({"llm_fallback": "local"}, "LLM_FALLBACK=local needs LOCAL_LLM_API_URL"),
    ({"llm_fallback": "nobody"}, "LLM_FALLBACK=nobody is not allowed: it should be one of none, "),
    ({"llm_fallback": "smart"}, "LLM_FALLBACK=smart is not allowed: it should be one of none, "),
    ({"llm_provider": "smart"}, "LLM_PROVIDER=smart needs LOCAL_LLM_API_URL"),
    (
        {"llm_provider": "smart", "local_llm_api_url": LOCAL},
        "SMART_STRONG=openai needs OPENAI_API_KEY, which is not set",
    ),
    (
        {"llm_provider": "smart", "local_llm_api_url": LOCAL, "smart_strong": "groq"},
        "SMART_STRONG=groq is not allowed: it should be one of local, extractive",
    ),
    (
        {"llm_provider": "smart", "local_llm_api_url": LOCAL, "smart_strong": "local"},
        "SMART_STRONG=local is not allowed: it should be another provider",
    ),
    (
        {"llm_provider": "smart", "local_llm_api_url": LOCAL, "smart_strong": "extractive"},
        "SMART_STRONG=extractive is not allowed: it should be another provider",
    ),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_a_choice_that_cannot_be_honoured_stops_the_start(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(StartError) as raised:
        build_registry(load_settings(**values))
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


async def test_resolve(providers_file: Path) -> None:
    settings = load_settings(local_llm_api_url=LOCAL, llm_providers=providers_file)
    registry = build_registry(settings)
    for model, name in {
        None: "local",
        "local": "local",
        "ollama": "ollama",
        "extractive": "extractive",
        "gpt-4o": "local",
        "": "local",
        "qwen3:8b": "local",  # another row's model is not that row's name
    }.items():
        provider, upstream = registry.resolve(model)
        assert (provider.name, upstream) == (name, None)
    await registry.aclose()


async def test_unknown_models_can_be_refused() -> None:
    settings = load_settings(
        local_llm_api_url=LOCAL, local_llm_model="frog-3b", unknown_model="refuse"
    )
    registry = build_registry(settings)
    for known in (None, "local", "extractive", "frog-3b"):
        registry.resolve(known)
    with pytest.raises(NotFound) as raised:
        registry.resolve("gpt-4o")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert "Available: local, extractive" in str(raised.value)
    await registry.aclose()


async def test_a_model_that_was_looked_up_is_known(server: OpenAIServer) -> None:
    settings = load_settings(local_llm_api_url=server.url, unknown_model="refuse")
    registry = build_registry(settings)
    assert registry.info()[0]["model"] is None
    await collect(registry.resolve(None)[0])
    assert registry.info()[0]["model"] == "tiny-upstream"
    registry.resolve("tiny-upstream")
    await registry.aclose()


async def test_create_get_has_remove() -> None:
    registry = build_registry(load_settings())
    row = ProviderRow("vllm", base_urls=(f"{LOCAL}/v1",), model="m")
    created = registry.create(row)
    assert registry.get("vllm") is registry.get_required("vllm") is created
    assert registry.row("vllm") is row
    assert registry.names() == ["extractive", "vllm"]
    with pytest.raises(Conflict, match="'vllm' exists already"):
        registry.create(row)

    await registry.remove("vllm")
    assert not registry.has("vllm")
    assert registry.get("vllm") is None
    for missing in (registry.get_required, registry.row):
        with pytest.raises(NotFound, match=r"LLM 'vllm' not found\. Available: extractive"):
            missing("vllm")
    with pytest.raises(NotFound):
        await registry.remove("vllm")
    await registry.aclose()


async def test_openai_wants_a_key_at_run_time_too() -> None:
    registry = build_registry(load_settings())
    with pytest.raises(StartError, match="without a key"):
        registry.create(ProviderRow("big", base_urls=("https://api.openai.com/v1",)))
    assert not registry.has("big")


async def test_info_shows_how_it_goes(server: OpenAIServer) -> None:
    settings = load_settings(
        local_llm_api_url=server.url, llm_max_attempts=1, llm_breaker_threshold=2
    )
    registry = build_registry(settings)

    def local() -> dict[str, Any]:
        return registry.info()[0]

    assert (local()["state"], local()["latency"]["first_token_p50_ms"]) == ("untried", None)
    provider = registry.get_required("local")
    await collect(provider)
    assert (local()["state"], local()["in_flight"]) == ("ready", 0)
    assert 0 < local()["latency"]["first_token_p50_ms"] <= local()["latency"]["first_token_p95_ms"]
    stream = provider.stream(ASK)
    await anext(stream)
    assert local()["in_flight"] == local()["hosts"][0]["in_flight"] == 1
    await stream.aclose()

    server.default = Reply(cut="headers")
    await text_before_error(provider, UpstreamUnavailable)
    assert (local()["state"], local()["hosts"][0]["breaker"]) == ("degraded", "closed")
    assert "closed the connection" in local()["hosts"][0]["last_error"]
    await text_before_error(provider, UpstreamUnavailable)
    assert (local()["state"], local()["hosts"][0]["breaker"]) == ("down", "open")
    assert registry.info()[1]["state"] == "ready"  # extractive needs nobody
    await registry.aclose()


async def test_info_says_that_a_model_is_loading(server: OpenAIServer) -> None:
    settings = load_settings(local_llm_api_url=server.url, llm_loading_timeout=0.1)
    registry = build_registry(settings)
    server.default = Reply.error(503, "m is still loading", code="loading")
    await text_before_error(registry.get_required("local"), UpstreamUnavailable)
    assert registry.info()[0]["state"] == "loading"
    await registry.aclose()


async def test_info_shows_no_secret(providers_file: Path) -> None:
    settings = load_settings(openai_api_key=KEY, llm_providers=providers_file)
    registry = build_registry(settings)
    shown = str(registry.info())
    assert KEY not in shown
    assert "http://192.0.2.2:11434/v1" in shown
    await registry.aclose()


async def test_the_whole_stack_falls_back(server: OpenAIServer) -> None:
    settings = load_settings(local_llm_api_url=server.url, llm_max_attempts=2)
    registry = build_registry(settings)
    provider, _ = registry.resolve("gpt-4o")
    assert (await complete(provider, ASK))["provider"] == "local"

    server.default = Reply(cut="headers")
    completion = await complete(provider, ASK)
    assert completion["provider"] == "extractive"
    assert "No language model answered" in completion["choices"][0]["message"]["content"]
    assert len([r for r in server.chats if r.body["messages"] == list(ASK.messages)]) == 3
    await registry.aclose()


async def test_a_provider_that_a_request_names_has_its_fallbacks_too(server: OpenAIServer) -> None:
    server.default = Reply.error(500)
    settings = load_settings(
        local_llm_api_url=server.url, llm_provider="extractive", llm_max_attempts=1
    )
    registry = build_registry(settings)
    assert (await complete(registry.resolve("local")[0], ASK))["provider"] == "extractive"
    assert len(server.chats) == 1
    await registry.aclose()


async def test_the_whole_stack_without_fallback_says_what_is_wrong(server: OpenAIServer) -> None:
    settings = load_settings(local_llm_api_url=server.url, llm_max_attempts=2, llm_fallback="none")
    registry = build_registry(settings)
    server.default = Reply(cut="headers")
    _, error = await text_before_error(registry.resolve(None)[0], UpstreamUnavailable)
    assert "LOCAL_LLM_API_URL" in str(error)
    assert len(server.chats) == 2
    await registry.aclose()


async def test_one_of_two_hosts_is_down(server: OpenAIServer) -> None:
    with OpenAIServer() as other:
        server.default = Reply(cut="headers")
        settings = load_settings(
            local_llm_api_url=f"{server.url},{other.url}",
            local_llm_model="m",
            llm_max_attempts=1,
            llm_fallback="none",
        )
        registry = build_registry(settings)
        for _ in range(3):
            assert text_of(await collect(registry.resolve(None)[0])) == Reply().text
        assert (len(server.chats), len(other.chats)) == (1, 3)
        await registry.aclose()


SMART = {"llm_provider": "smart", "local_llm_api_url": LOCAL, "openai_api_key": KEY}


async def test_smart_is_a_name_among_the_others() -> None:
    registry = build_registry(load_settings(**SMART, smart_share=0.25))
    assert registry.chosen == "smart"
    assert registry.models() == ["smart", "openai", "local", "extractive"]
    assert registry.names() == ["openai", "local", "extractive"]
    assert registry.choices("smart") == ["local", "openai"]
    assert registry.choices("local") == ["local"]
    assert registry.baseline == "openai"
    for model, name in {
        None: "smart",
        "smart": "smart",
        "gpt-4o": "smart",
        "local": "local",
    }.items():
        assert registry.resolve(model)[0].name == name
    first, *rows = registry.info()
    assert set(first) - {"routing"} == set(rows[0])
    assert (first["name"], first["kind"], first["chosen"], first["cloud"]) == (
        "smart",
        "routing",
        True,
        True,
    )
    assert first["routing"] | {"threshold": 0} == {
        "local": "local",
        "strong": "openai",
        "target_share": 0.25,
        "recent_share": None,
        "recent_requests": 0,
        "threshold": 0,
    }
    assert not any(row["chosen"] for row in rows)
    assert [row["name"] for row in rows if row["fallback"]] == ["local", "extractive"]
    await registry.aclose()


async def test_smart_among_models_that_can_be_refused() -> None:
    registry = build_registry(
        load_settings(**SMART, unknown_model="refuse", local_llm_model="frog-3b")
    )
    for model in (None, "smart", "local", "frog-3b", "gpt-4o-mini"):
        registry.resolve(model)
    with pytest.raises(NotFound, match="Available: smart, openai, local, extractive"):
        registry.resolve("gpt-9")
    await registry.aclose()


async def test_the_strong_one_may_be_a_row_of_the_file(providers_file: Path) -> None:
    settings = load_settings(
        llm_provider="smart",
        local_llm_api_url=LOCAL,
        llm_providers=providers_file,
        smart_strong="groq",
    )
    registry = build_registry(settings)
    assert registry.choices("smart") == ["local", "groq"]
    assert registry.baseline == "groq"
    assert (registry.price("groq"), registry.price("nobody")) == (None, None)
    await registry.aclose()


async def test_smart_asks_the_one_that_fits(server: OpenAIServer) -> None:
    metrics = Metrics()
    with OpenAIServer() as strong:
        settings = load_settings(
            llm_provider="smart",
            local_llm_api_url=server.url,
            openai_base_url=strong.url,
            openai_api_key=KEY,
        )
        registry = build_registry(settings, metrics)
        for question in ("Who pays?", "Why and how do A and B differ? Compare them, then explain."):
            note = Note()
            request = ChatRequest(({"role": "user", "content": question},), note=note)
            chunks = await collect(registry.resolve("smart")[0], request)
            assert note.route is not None
            assert {chunk["provider"] for chunk in chunks} == {note.route.provider}
        assert (len(server.chats), len(strong.chats)) == (1, 1)
        await collect(registry.resolve("local")[0])
        await registry.aclose()
    shown = metrics.exposition().decode()
    for line in (
        'rag_routed_total{provider="local",rule="score"} 1.0',
        'rag_routed_total{provider="openai",rule="score"} 1.0',
        'rag_routed_total{provider="local",rule="named"} 1.0',
        'rag_route_reasons_total{provider="openai",reason="compare"} 1.0',
        "rag_route_score_count 2.0",
    ):
        assert line in shown
