"""What the start tells: the effective settings, what was reached, and what to do about the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

from rag_backend.api.parts import Parts
from rag_backend.errors import CacheUnavailable, RAGError, StartError, Starting
from rag_backend.keys import KeyRing
from rag_backend.knowledge.reranking import RERANKED
from rag_backend.knowledge.sql.opening import postgres_address, shown_address
from rag_backend.llm.probing import Reachability, in_two, probe
from rag_backend.llm.rows import ProviderRow, key_variables
from rag_backend.settings import ENV_FILE, Settings, describe, misspelt
from rag_backend.upstream import shown_url
from rag_backend.values import IN_MEMORY

Say = Callable[[str], None]


def announce_settings(settings: Settings, say: Say) -> None:
    """Print every setting as it is in force, secrets masked, and names that look misspelt."""
    listed = describe(settings)
    width = max(len(name) for name, _ in listed)
    say(f"Settings (environment > .env > default; {_env_file()}):")
    for name, value in listed:
        say(f"  {name:<{width}}  {value or '-'}")
    for rights in KeyRing([key.get_secret_value() for key in settings.api_keys]).described():
        say(f"  An API key with {rights}.")
    for unread in misspelt(key_variables(settings.llm_providers)):
        say(f"  ! {unread}")


def _env_file() -> str:
    here = ENV_FILE.resolve()
    if here.is_dir():
        return f"! {here} is a directory, so it is not read"
    return f"read {here}" if here.is_file() else f"no .env in {here.parent}"


async def announce_dependencies(parts: Parts, say: Say) -> None:
    """Print for each dependency, as it becomes known, whether it was reached, and the remedy.

    The encoder may take seconds to load; its failure is reported here and raised elsewhere.
    """
    rows = [parts.registry.row(name) for name in parts.registry.names()]
    checks = [_catalog(parts), _chroma(parts), _encoder(parts), *(_provider(row) for row in rows)]
    if not parts.registry.has("openai"):
        say("  [off] OpenAI: OPENAI_API_KEY is not set; nothing leaves this network.")
    if not parts.registry.has("local"):
        say("  [off] Local model: LOCAL_LLM_API_URL is not set.")
    if parts.settings.reranker_model:
        checks.append(_reranker(parts))
    if parts.answers.caching and parts.settings.cache_url != IN_MEMORY:
        checks.append(_cache(parts))
    for check in asyncio.as_completed(checks):
        name, found = await check
        remedy = f" {found.remedy}" if found.remedy else ""
        sound = found.reached and not found.remedy
        say(f"  [{'ok' if sound else '!!'}] {name}: {found.detail}.{remedy}")
    for line in _unpriced(parts):
        say(line)
    say(f"Answers come from '{parts.registry.chosen}'{_routing(parts)}.")


def _routing(parts: Parts) -> str:
    """Which provider answers what, where the choice is left to the router."""
    name = parts.registry.chosen
    if parts.registry.has(name):
        return ""
    local, strong = parts.registry.choices(name)
    leaving = " (outside this network)" if parts.registry.row(strong).cloud else ""
    share = f"{parts.settings.smart_share:.0%}"
    return f": simple questions from '{local}', hard ones, about {share}, from '{strong}'{leaving}"


def _unpriced(parts: Parts) -> Iterator[str]:
    for name in parts.registry.names():
        if parts.registry.price(name) is None:
            model = parts.registry.row(name).model or "its model"
            yield (
                f"  [--] Provider '{name}': no price is known for {model}, so its answers are "
                "counted in tokens and not in dollars."
            )


async def _provider(row: ProviderRow) -> tuple[str, Reachability]:
    name, found = f"Provider '{row.name}'", await probe(row)
    # An error's sentence begins with the name, which the report has said.
    return name, replace(found, detail=found.detail.replace(f"{name} at ", ""))


async def _catalog(parts: Parts) -> tuple[str, Reachability]:
    url = parts.settings.database_url
    if url is None:
        return "Catalog", Reachability(True, f"SQLite in {parts.settings.data_dir}")
    where = f"PostgreSQL at {shown_address(postgres_address(url.get_secret_value()))}"
    try:
        backends = await asyncio.to_thread(parts.library.catalog.count_backends)
    except RAGError as error:
        return "Catalog", Reachability(False, where, str(error))
    return "Catalog", Reachability(True, f"{where}, {backends} backend(s) on it")


async def _chroma(parts: Parts) -> tuple[str, Reachability]:
    where = parts.settings.chroma_url or f"embedded in {parts.settings.data_dir}"
    try:
        await asyncio.to_thread(parts.library.check_vectors)
    except RAGError as error:
        return "Chroma", Reachability(False, where, str(error))
    return "Chroma", Reachability(True, where)


async def _cache(parts: Parts) -> tuple[str, Reachability]:
    try:
        await parts.answers.check()
    except CacheUnavailable as error:
        what, remedy = in_two(error)
        what = what.removeprefix("The answer cache at ")
        return "Answer cache", Reachability(False, what, f"{remedy} Answers go on without it.")
    return "Answer cache", Reachability(True, f"{shown_url(parts.settings.cache_url)} answers")


async def _encoder(parts: Parts) -> tuple[str, Reachability]:
    url = parts.settings.embedding_url
    name = f"'{parts.settings.embedding_model}'"
    try:
        encoder = await parts.encoder.first_word()
    except Starting as error:
        what, remedy = in_two(error)
        again = "It is asked again until it answers; documents wait."
        return "Encoder", Reachability(False, what.rstrip("."), f"{remedy} {again}".lstrip())
    except StartError as error:
        return "Encoder", Reachability(False, f"{name} was not loaded", str(error))
    if url:
        name = f"'{encoder.embedding.model_id}' at {shown_url(url)}"
    size = len(encoder.probe) // 4
    limit = encoder.embedding.max_tokens
    return "Encoder", Reachability(True, f"{name}, {size} dimensions, reads {limit} tokens")


async def _reranker(parts: Parts) -> tuple[str, Reachability]:
    name = f"'{parts.settings.reranker_model}'"
    try:
        await parts.reranking.wait()
    except StartError as error:
        detail = f"{name} was not loaded; results keep their fused order"
        return "Reranker", Reachability(False, detail, str(error))
    return "Reranker", Reachability(True, f"{name} orders the best {RERANKED} results anew")
