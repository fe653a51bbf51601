"""Whether a provider can be reached, for the report at the start. Never asks for a completion."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rag_backend.errors import UpstreamError
from rag_backend.llm.openai_compatible import OpenAICompatible
from rag_backend.llm.rows import ProviderRow

LIMIT = 3.0
"""Seconds a host has to answer."""


@dataclass(frozen=True, slots=True)
class Reachability:
    """What a probe found: one line each for a person; `remedy` is "" where nothing is wrong."""

    reached: bool
    detail: str
    remedy: str = ""
    loading: bool = False
    """Whether all that is wrong is that its model is still being read."""
    refused: bool = False
    """Whether it does not take the key."""
    listed: bool = False
    """Whether it lists the model that it will be asked for."""


def in_two(error: Exception) -> tuple[str, str]:
    """What is wrong, and what to do: "X cannot be reached: check Y." → that, and "Check Y."."""
    what, _, remedy = str(error).partition(": ")
    return what, remedy[:1].upper() + remedy[1:]


async def probe(row: ProviderRow) -> Reachability:
    """Ask each host for its models, with a limit of 3 s. Reached: all hosts answer."""
    if row.kind == "extractive":
        return Reachability(True, "needs no server")
    found = await asyncio.gather(*(_probe_host(row, url) for url in row.base_urls))
    return Reachability(
        all(one.reached for one in found),
        "; ".join(one.detail for one in found),
        " ".join(dict.fromkeys(one.remedy for one in found if one.remedy)),
        listed=all(one.listed for one in found),
    )


async def _probe_host(row: ProviderRow, url: str) -> Reachability:
    host = OpenAICompatible(row, url, connect_timeout=LIMIT)
    try:
        return await probe_host(row, host)
    finally:
        await host.aclose()


async def probe_host(row: ProviderRow, host: OpenAICompatible) -> Reachability:
    """The same of one host, through a client that stays open."""
    try:
        status, body = await host.get("models", LIMIT)
        loading = None if row.cloud else await _loading(host)
    except UpstreamError as error:
        return Reachability(False, *in_two(error))
    return loading or _judged(row, host.url, status, body)


def _judged(row: ProviderRow, url: str, status: int, body: Any) -> Reachability:
    if status in (401, 403):
        if not row.secret:
            said, remedy = "wants an API key", f"Set {row.key_setting}."
        else:
            said, remedy = "refused the API key", f"Check {row.key_setting}."
        return Reachability(False, f"{url} {said}", remedy, refused=True)
    if status == 404:
        # A few servers complete chats and list no models.
        base = "it should be the base of an OpenAI-style API."
        remedy = f"If questions fail, check {row.url_setting}: {base}"
        return Reachability(True, f"{url} answers, but lists no models", remedy)
    if status != 200:
        return Reachability(False, f"{url} answered {status}", "Look at its log.")
    models = _ids(body)
    if models is None:
        remedy = f"Check {row.url_setting}: it should be the base of an OpenAI-style API."
        return Reachability(False, f"{url} is not an OpenAI-style API", remedy)
    model = row.model or next(iter(models), None)
    # Ollama lists "llama3.2:latest" and takes "llama3.2".
    listed = model is not None and not {model, f"{model}:latest"}.isdisjoint(models)
    if models and not listed and not row.cloud:
        return Reachability(
            True,
            f"{url} answers, but does not list the model {row.model!r}",
            f"Check {row.model_setting}; it lists: {', '.join(models[:5])}.",
        )
    with_model = f" with {model if listed else models[0]}" if models else ""
    return Reachability(True, f"{url} answers{with_model}", listed=listed)


async def answers(host: OpenAICompatible, limit: float) -> bool:
    """Whether a host that failed is worth a request again: it lists its models, or refuses to.

    One that says that it is loading is; a request waits for that. `limit` in seconds.
    """
    try:
        status, body = await host.get("models", limit)
    except UpstreamError:
        return False
    return status < 500 or _says_loading(status, body)


async def _loading(host: OpenAICompatible) -> Reachability | None:
    """A model server that is up and still reading its model; None where that is not so."""
    status, body = await host.get("/health", LIMIT)
    if not isinstance(body, Mapping) or not _says_loading(status, body):
        return None
    detail = f"{host.url} is loading its model{_progress(body)}"
    return Reachability(False, detail, "It answers when that is done.", loading=True)


def _says_loading(status: int, body: Any) -> bool:
    return status == 503 and "loading" in str(body).lower()


def _progress(body: Mapping[str, Any]) -> str:
    """`: reading weights (40 %)`, as far as the server says."""
    told = body.get("progress", body)
    if not isinstance(told, Mapping):
        return f" ({told})"
    stage, percent = told.get("stage"), told.get("percent")
    return (f": {stage}" if stage else "") + (f" ({percent:.0f} %)" if percent is not None else "")


def _ids(body: Any) -> list[str] | None:
    rows = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(rows, list):
        return None
    return [str(row["id"]) for row in rows if isinstance(row, Mapping) and "id" in row]
