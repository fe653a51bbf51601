"""One provider on several hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from rag_backend.errors import UpstreamError, UpstreamRefused
from rag_backend.llm.provider import ChatRequest, Chunk, LLMProvider

REST = 10.0
"""Seconds for which a host that failed is asked only when no other is left."""


@dataclass
class _Host:
    provider: LLMProvider
    in_flight: int = 0
    rests_until: float = 0.0


class Balanced:
    """Sends each request to the host with the fewest in flight; one that failed rests a while.

    It does not ask twice itself: Retrying, above it, does, and so lands on another host.
    """

    def __init__(self, hosts: Sequence[LLMProvider]) -> None:
        self._hosts = [_Host(provider) for provider in hosts]

    @property
    def name(self) -> str:
        """The name that the hosts share."""
        return self._hosts[0].provider.name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """See LLMProvider."""
        clock = asyncio.get_running_loop()
        now = clock.time()
        host = min(self._hosts, key=lambda h: (max(0.0, h.rests_until - now), h.in_flight))
        host.in_flight += 1
        try:
            async with aclosing(host.provider.stream(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
            host.rests_until = 0.0
        except UpstreamRefused:
            raise
        except UpstreamError:
            host.rests_until = clock.time() + REST
            raise
        finally:
            host.in_flight -= 1
