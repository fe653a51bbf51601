"""How long a text may be: what the model was made for, what was asked for, what memory allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_offline.engine.hardware.sizing import LEAST_CONTEXT
from llm_offline.errors import StartError
from llm_offline.settings import Settings

_UNKNOWN = 4096
"""Tokens of context of a model that does not say."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model gets to work with.

    Attributes:
        context: Tokens of prompt and answer together.
        tokens: Tokens that the KV cache holds.
        because: What limits the context, in words.
    """

    context: int
    tokens: int
    because: str


def limits(settings: Settings, config: Any, room: int) -> Limits:
    """Context and KV cache, where there is memory for `room` tokens.

    Raises:
        StartError: `--max-context` is more than what the model was made for, or the memory is too
            little for it, or for a short text.
    """
    made_for, wanted = longest_context(settings, config), settings.max_context
    if room < (least := wanted or LEAST_CONTEXT):
        lower = "lower --max-context, " if wanted else ""
        raise StartError(
            f"there is memory for {room} tokens of context, and {least} are needed: raise "
            f"--kv-memory, {lower}or choose a smaller model"
        )
    if wanted is not None:
        context, because = wanted, "--max-context"
    elif room < made_for:
        context, because = room, f"of {made_for}: what memory allows"
    else:
        context, because = made_for, "what the model was made for"
    return Limits(context, min(room, settings.max_batch * context), because)


def longest_context(settings: Settings, config: Any) -> int:
    """Tokens that the model was made for, as far as they can be given here.

    Raises:
        StartError: `--max-context` is more.
    """
    text: Mapping[str, Any] = config.get_text_config().to_dict()
    # Some say 0 or nothing, because their positions have no end.
    made_for: int = max(0, text.get("max_position_embeddings") or 0) or _UNKNOWN
    made_for = min(made_for, even_positions(text) or made_for)
    if settings.max_context is not None and settings.max_context > made_for:
        raise StartError(
            f"--max-context {settings.max_context} is more than the {made_for} tokens that the "
            f"model was made for, or can be given here: {made_for} is the most",
            param="max_context",
        )
    return made_for


def even_positions(text: Mapping[str, Any]) -> int | None:
    """Tokens up to which a position means the same in every text; None: all of them.

    `longrope` and `dynamic` turn positions otherwise once the longest text of a call is longer than
    this (transformers, `dynamic_rope_update`). Here several texts share a call, and a text's early
    keys are kept from when it was short.
    """
    rope = text.get("rope_parameters") or {}
    kinds = rope.values() if all(isinstance(value, Mapping) for value in rope.values()) else [rope]
    found = [
        kind.get("original_max_position_embeddings")
        or text.get("original_max_position_embeddings")
        or text.get("max_position_embeddings")
        for kind in kinds
        if kind.get("rope_type") in ("longrope", "dynamic")
    ]
    return min(filter(None, found), default=None)
