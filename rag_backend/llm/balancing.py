"""One provider on several hosts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from rag_backend.llm.hosts import Endpoint
from rag_backend.llm.provider import ChatRequest, Chunk


class Balanced:
    """Sends each request to the host with the fewest in flight, among those in the best health.

    It does not ask twice itself: Retrying, above it, does, and so lands on another host. Where
    every breaker is open, the error of one of them comes back at once.
    """

    def __init__(self, hosts: Sequence[Endpoint]) -> None:
        self._hosts = tuple(hosts)

    @property
    def name(self) -> str:
        """The name that the hosts share."""
        return self._hosts[0].provider.name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """See LLMProvider."""
        host = min(self._hosts, key=lambda h: (h.circuit.rank, h.gauge.in_flight))
        async with aclosing(host.provider.stream(request)) as chunks:
            async for chunk in chunks:
                yield chunk
