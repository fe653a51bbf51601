"""Prompts: templates filled with the question and its sources."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rag_backend.llm.provider import Evidence, Message


@lru_cache(maxsize=1)
def _templates() -> Environment:
    # Prompts are plain text: escaping as for HTML would garble them.
    return Environment(
        loader=PackageLoader("rag_backend.answering", "prompts"),
        autoescape=False,  # noqa: S701
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def prompt_version() -> str:
    """Changes whenever a template does."""
    loader = _templates().loader
    assert loader is not None  # noqa: S101
    named = [(name, loader.get_source(_templates(), name)[0]) for name in loader.list_templates()]
    return hashlib.sha256(repr(named).encode()).hexdigest()


def render(template: str, **values: Any) -> str:
    """A template of `prompts/`, filled."""
    return _templates().get_template(f"{template}.jinja").render(**values).strip()


def grounded_messages(
    messages: Sequence[Message], sources: Sequence[Evidence], language: str, *, markers: bool = True
) -> tuple[Message, ...]:
    """The conversation under one system message that holds the rules and the sources.

    The client's own system messages go into it too: many chat templates accept only one. Sources
    come before the conversation: a model server's prefix cache keeps them from turn to turn.

    Args:
        language: Of the question, "vi" or "en".
        markers: Whether to ask for a source's number after each statement.
    """
    system = [m for m in messages if m["role"] in ("system", "developer")]
    rest = [m for m in messages if m["role"] not in ("system", "developer")]
    content = render(
        "grounded",
        language=language,
        instructions="\n\n".join(str(m["content"]) for m in system),
        sources=sources,
        markers=markers,
    )
    return ({"role": "system", "content": content}, *rest)
