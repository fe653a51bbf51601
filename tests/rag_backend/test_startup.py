"""What the start tells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rag_backend.api.parts import Parts
from rag_backend.errors import CacheUnavailable, StartError, Starting, StorageBroken
from rag_backend.llm.registry import Registry, build_registry
from rag_backend.settings import Settings, load_settings
from rag_backend.startup import announce_dependencies, announce_settings
from tests.openai_server import OpenAIServer
from tests.ports import refusing


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(settings: Settings) -> list[str]:
    lines: list[str] = []
    announce_settings(settings, lines.append)
    return lines


def test_settings_are_listed_and_secrets_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    first, *lines = told(load_settings())
    assert "no .env in" in first
    assert {line.split()[0] for line in lines} == {n.upper() for n in Settings.model_fields}
    assert any(line.split() == ["OPENAI_API_KEY", "****"] for line in lines)
    assert any(line.split() == ["CHROMA_URL", "-"] for line in lines)
    assert "very-secret" not in "".join(lines)


def test_a_misspelt_name_is_told_with_the_right_one(folder: Path) -> None:
    (folder / ".env").write_text("LOCAL_LLM_URL=http://a\n")
    first, *_, last = told(load_settings())
    assert f"read {folder / '.env'}" in first
    assert last == (
        "  ! .env sets LOCAL_LLM_URL, which no setting reads: did you mean LOCAL_LLM_API_URL?"
    )


def test_names_of_providers_keys_are_read(folder: Path) -> None:
    (folder / "rows.toml").write_text(
        '[providers.other]\nbase_url = "https://a"\napi_key_env = "OPENAI_APIKEY"\n'
    )
    (folder / ".env").write_text("OPENAI_APIKEY=sk-very-secret\nLLM_PROVIDERS=rows.toml\n")
    assert not [line for line in told(load_settings()) if "no setting reads" in line]
    (folder / ".env").write_text("OPENAI_APIKEY=sk-very-secret\nLLM_PROVIDERS=none.toml\n")
    lines = told(load_settings())
    assert "did you mean OPENAI_API_KEY?" in lines[-1]
    assert "very-secret" not in "".join(lines)


def test_a_directory_in_place_of_the_file(folder: Path) -> None:
    (folder / ".env").mkdir()
    assert "is a directory" in told(load_settings())[0]


class FakeEncoder:
    def __init__(self, error: StartError | Starting | None = None) -> None:
        self._error = error

    async def first_word(self) -> Any:
        if self._error:
            raise self._error
        return SimpleNamespace(probe=bytes(4 * 384), embedding=SimpleNamespace(max_tokens=254))

    async def wait(self) -> Any:
        return await self.first_word()


class FakeLibrary:
    def __init__(self, error: StorageBroken | None = None) -> None:
        self._error = error

    def check_vectors(self) -> None:
        if self._error:
            raise self._error


class FakeAnswers:
    caching = True

    def __init__(self, error: CacheUnavailable | None = None) -> None:
        self._error = error

    async def check(self) -> None:
        if self._error:
            raise self._error


@pytest.fixture
async def registry_of() -> AsyncIterator[Any]:
    built: list[Registry] = []

    def build(settings: Settings) -> Registry:
        built.append(build_registry(settings))
        return built[-1]

    yield build
    for registry in built:
        await registry.aclose()


async def report(
    settings: Settings,
    registry: Registry,
    library: FakeLibrary,
    encoder: FakeEncoder,
    reranking: FakeEncoder | None = None,
    answers: FakeAnswers | None = None,
) -> list[str]:
    lines: list[str] = []
    parts = SimpleNamespace(
        settings=settings,
        registry=registry,
        library=library,
        encoder=encoder,
        reranking=reranking,
        answers=answers or FakeAnswers(),
    )
    await announce_dependencies(cast(Parts, parts), lines.append)
    return lines


def about(lines: list[str], name: str) -> str:
    (line,) = [line for line in lines if name in line]
    return line


async def test_what_is_switched_off(registry_of: Any) -> None:
    settings = load_settings()
    lines = await report(settings, registry_of(settings), FakeLibrary(), FakeEncoder())
    assert "[off] OpenAI: OPENAI_API_KEY is not set" in about(lines, "OpenAI")
    assert "[off] Local model: LOCAL_LLM_API_URL" in about(lines, "Local model")
    assert about(lines, "Chroma") == "  [ok] Chroma: embedded in data."
    assert "384 dimensions, reads 254 tokens" in about(lines, "[ok] Encoder")
    assert lines[-1] == "Answers come from 'extractive'."


async def test_what_was_reached_and_what_to_do_about_the_rest(registry_of: Any) -> None:
    with refusing() as away, OpenAIServer() as server:
        settings = load_settings(
            openai_api_key="sk-very-secret", openai_base_url=away, local_llm_api_url=server.url
        )
        lines = await report(
            settings,
            registry_of(settings),
            FakeLibrary(StorageBroken("Chroma's data is damaged: rebuild it.")),
            FakeEncoder(StartError("EMBEDDING_MODEL=x is no folder.")),
        )
    assert about(lines, "Provider 'local'").startswith("  [ok]")
    openai = about(lines, "Provider 'openai'")
    assert openai.startswith("  [!!]")
    assert away in openai
    assert f"Provider 'openai': {away}/v1 cannot be reached. Check" in openai
    assert "[!!] Chroma" in about(lines, "rebuild it.")
    assert "[!!] Encoder" in about(lines, "EMBEDDING_MODEL=x is no folder.")
    assert lines[-1] == "Answers come from 'openai'."
    assert "very-secret" not in "".join(lines)


async def test_an_embedding_server_that_does_not_answer_yet(registry_of: Any) -> None:
    settings = load_settings(embedding_url="http://gpu.lan:8001")
    rest = (registry_of(settings), FakeLibrary())
    for said, shown in (
        ("It failed (501).", "It failed (501). It is asked again"),
        ("It is away: check it.", "It is away. Check it. It is asked again"),
    ):
        line = about(await report(settings, *rest, FakeEncoder(Starting(said))), "Encoder")
        assert line.startswith(f"  [!!] Encoder: {shown} until it answers")


async def test_the_reranker_is_reported_where_one_is_set(registry_of: Any) -> None:
    settings = load_settings(reranker_model="some/cross-encoder")
    rest = (registry_of(settings), FakeLibrary(), FakeEncoder())
    lines = await report(settings, *rest, FakeEncoder())
    assert "[ok] Reranker: 'some/cross-encoder' orders the best" in about(lines, "Reranker")
    lines = await report(settings, *rest, FakeEncoder(StartError("Give another one.")))
    line = about(lines, "Reranker")
    assert "[!!]" in line
    assert "keep their fused order" in line
    assert line.endswith("Give another one.")


async def test_the_answer_cache_is_reported_where_it_is_a_server(registry_of: Any) -> None:
    settings = load_settings(cache_url="redis://:very-secret@cache.lan:6379/0")
    rest = (registry_of(settings), FakeLibrary(), FakeEncoder(), None)
    lines = await report(settings, *rest)
    assert about(lines, "cache") == "  [ok] Answer cache: redis://cache.lan:6379/0 answers."
    where = "The answer cache at redis://cache.lan:6379/0"
    error = CacheUnavailable(f"{where} cannot be reached: check it, and CACHE_URL.")
    lines = await report(settings, *rest, FakeAnswers(error))
    assert about(lines, "cache") == (
        "  [!!] Answer cache: redis://cache.lan:6379/0 cannot be reached. Check it, and CACHE_URL. "
        "Answers go on without it."
    )
    assert "very-secret" not in "".join(lines)
    assert not any("cache" in line for line in await report(load_settings(), *rest))


async def test_what_smart_sends_where_and_what_it_costs(registry_of: Any) -> None:
    with OpenAIServer() as server:
        settings = load_settings(
            llm_provider="smart",
            smart_share=0.25,
            openai_api_key="sk-very-secret",
            openai_base_url=server.url,
            openai_model="brand-new",
            local_llm_api_url=server.url,
        )
        lines = await report(settings, registry_of(settings), FakeLibrary(), FakeEncoder())
    assert lines[-1] == (
        "Answers come from 'smart': simple questions from 'local', hard ones, about 25%, from "
        "'openai' (outside this network)."
    )
    assert about(lines, "no price is known for brand-new").startswith("  [--] Provider 'openai'")
