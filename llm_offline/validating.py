"""Does a model work here, and how fast: what `/validate-model` reports."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from llm_offline.engine.interface import GenerationRequest, Sampling, TextDelta
from llm_offline.errors import BadRequest, LLMOfflineError, QueueFull, ShuttingDown
from llm_offline.fitting import Need
from llm_offline.pool import Aside
from llm_offline.running import Ready

SENTENCE = "Which documents does a rider of a motorbike need to carry, and where is that said?"

_PREFILL = 256
"""Tokens of the prompt: enough to tell how fast prompts are read."""

_MOST_SHOWN = 16

_LOOK = 0.02
"""Seconds between two looks at the memory."""


async def validate(
    now: Ready,
    prompt: str,
    max_tokens: int,
    need: Need | None = None,
    *,
    aside: Aside = asyncio.to_thread,
) -> dict[str, Any]:
    """Generate, and report what was seen.

    Args:
        now: The model and its engine; other requests may use it meanwhile.
        prompt: Begins the text that is read, and repeated up to 256 tokens.
        max_tokens: Tokens to generate, at least 2; greedily, and not less.
        need: What it was weighed at, if it was loaded for this with a short context only.
        aside: Where prompts are written.
    """
    model = now.model
    report: dict[str, Any] = {"model": now.name, "valid": True, "loads": True} | model.facts()
    report |= {"other_requests": now.requests} if need is None else _as_weighed(need)
    stops = sorted(model.network.stop_ids)
    report |= {
        "stop_ids": stops[:_MOST_SHOWN],
        "stop_tokens": [model.text.token_text(token) for token in stops[:_MOST_SHOWN]],
        "attention_difference": model.network.difference,
    }
    problems, remarks = [], _remarks(report, model.dtype)
    try:
        await aside(_try_template, now)
        async with _watched(now) as looks:
            report["generation"] = await _generate(now, prompt, max_tokens, aside)
        report["memory"] = _memory(now, looks)
        if not report["generation"]["text"].strip():
            remarks.append("what it generated is no text: only special tokens or white space")
    except (QueueFull, ShuttingDown):  # these are not about the model
        raise
    except BadRequest as error:
        if prompt != SENTENCE:  # nor is what it makes of a prompt that it has no tokens for
            raise
        problems.append(str(error))
    except LLMOfflineError as error:
        problems.append(str(error))
    return report | {"valid": not problems, "problems": problems, "remarks": remarks}


def failed(name: str, problem: str) -> dict[str, Any]:
    """The report about a model that does not load."""
    return {
        "model": name,
        "valid": False,
        "loads": False,
        "problems": [problem],
        "remarks": [],
    }


def _as_weighed(need: Need) -> dict[str, Any]:
    """What it could use if it served; it was tried with a short context."""
    return {
        "context_length": need.context,
        "kv_cache_bytes": need.kv_wanted,
        "full_length_requests": round(need.kv_wanted / need.kv_token / need.context, 1),
    }


def _remarks(report: dict[str, Any], dtype: str) -> list[str]:
    found = []
    if report["quantization"] != "none":
        found.append(
            f"{report['quantization']}: output layer, embeddings and norms stay in {dtype}"
        )
    if report["chat_template"] is None:
        found.append("it has no chat template: chat is refused unless --chat-template gives one")
    if not report["stop_ids"]:
        found.append("it names no token that ends a text: answers run to max_tokens")
    return found


def _try_template(now: Ready) -> None:
    if now.model.template is not None:
        now.model.text.encode_chat([{"role": "user", "content": SENTENCE}])


async def _generate(now: Ready, prompt: str, max_tokens: int, aside: Aside) -> dict[str, Any]:
    """Text and speeds, as a request among the others gets them.

    Raises:
        LLMOfflineError: The model does not generate; the sentence says why.
    """
    tokens = await aside(_long_prompt, now, prompt)
    # A text that ends early says little about speed.
    network = now.model.network
    # Its authors may name ids that it has no place for: it never says them anyway.
    never = tuple((token, -100.0) for token in network.stop_ids if token < network.vocabulary)
    request = GenerationRequest(
        tokens, Sampling(temperature=0, logit_bias=never), max_tokens=max_tokens
    )
    began = time.monotonic()
    seen: list[tuple[float, TextDelta]] = []
    async with aclosing(now.engine.generate(request)) as generation:
        async for delta in generation:
            seen.append((time.monotonic() - began, delta))
    (first, opening), (last, end) = seen[0], seen[-1]
    more = end.completion_tokens - opening.completion_tokens
    return {
        "prompt_tokens": len(tokens),
        "completion_tokens": end.completion_tokens,
        "first_token_seconds": round(first, 4),
        "prefill_tokens_per_second": round(len(tokens) / first, 1),
        "decode_tokens_per_second": round(more / (last - first), 1) if more else None,
        "text": "".join(delta.text for _, delta in seen),
    }


@asynccontextmanager
async def _watched(now: Ready) -> AsyncIterator[list[dict[str, int]]]:
    """Looks at the device's memory: before, all the while, and after."""
    looks = [await now.memory()]

    async def watch() -> None:
        while True:
            looks.append(await now.memory())
            await asyncio.sleep(_LOOK)

    watching = asyncio.create_task(watch())
    try:
        yield looks
    finally:
        watching.cancel()
    looks.append(await now.memory())


def _memory(now: Ready, looks: list[dict[str, int]]) -> dict[str, int]:
    """What the model takes as it was tried here, in bytes.

    `generating_bytes` is by how much this process grew at most while it generated, as far as was
    seen: a step's numbers, and on a CPU also those keys and values that were written for the first
    time. `used_bytes` is all that this process has on the device, other models included.
    """
    held = {"weights_bytes": now.model.weights_bytes, "kv_cache_bytes": now.model.kv_bytes}
    told = [look for look in looks if look]
    if not told:  # the device's driver says nothing
        return held
    most = max(look["used_bytes"] for look in told)
    return held | {
        "generating_bytes": most - told[0]["used_bytes"],
        "used_bytes": most,
        "free_bytes": told[-1]["free_bytes"],
        "total_bytes": told[-1]["total_bytes"],
    }


def _long_prompt(now: Ready, prompt: str) -> tuple[int, ...]:
    """The prompt repeated; a number before it, so that no cache knows it."""
    text = now.model.text
    wanted = max(1, min(_PREFILL, now.model.context // 2))
    numbered = f"{secrets.token_hex(4)}: "
    # No token is longer than this many characters of ordinary text, on average.
    repeated = numbered + (prompt + " ") * (1 + 8 * wanted // (len(prompt) + 1))
    return tuple(text.encode(repeated)[:wanted])
