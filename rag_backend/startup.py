"""What the start tells: the effective settings, what was reached, and what to do about the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from rag_backend.llm.probing import Reachability
from rag_backend.parts import Parts
from rag_backend.settings import Settings, describe, unknown_names

Say = Callable[[str], None]


def announce_settings(settings: Settings, say: Say) -> None:
    """Print every setting as it is in force, secrets masked, and names nobody reads."""
    listed = describe(settings)
    width = max(len(name) for name, _ in listed)
    say("Settings (environment > .env > default):")
    for name, value in listed:
        say(f"  {name:<{width}}  {value or '-'}")
    for name in unknown_names():
        say(f"  ! .env sets {name}, which no setting reads: check its spelling.")


async def announce_dependencies(parts: Parts, say: Say) -> None:
    """Print for each dependency whether it was reached, and the remedy where it was not."""
    rows = [_chroma(parts), *(_provider(parts, name) for name in _model_servers(parts))]
    say("Dependencies:")
    for row in asyncio.as_completed([*rows, _encoder(parts)]):
        name, found = await row
        mark, remedy = ("ok", "") if found.reached else ("--", f" {found.remedy}")
        say(f"  [{mark}] {name}: {found.detail}{remedy}")


def _model_servers(parts: Parts) -> Iterable[str]:
    return (name for name in ("local", "openai", *parts.registry.names()) if name)


async def _provider(parts: Parts, name: str) -> tuple[str, Reachability]:
    raise NotImplementedError


async def _chroma(parts: Parts) -> tuple[str, Reachability]:
    raise NotImplementedError


async def _encoder(parts: Parts) -> tuple[str, Reachability]:
    raise NotImplementedError
