"""Asking again, in one layer only, and only while nothing has been shown."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from rag_backend.llm.provider import ChatRequest, Chunk, LLMProvider
from rag_backend.llm.streams import Begun, begin
from rag_backend.patience import Patience


class Retrying:
    """Retries a provider until its first output, as `patience` allows."""

    def __init__(self, provider: LLMProvider, patience: Patience) -> None:
        self._provider = provider
        self._patience = patience

    @property
    def name(self) -> str:
        """The wrapped provider's name."""
        return self._provider.name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """See LLMProvider; raises the last attempt's error."""
        begun: Begun = await self._patience.ask(begin, self._provider, request)
        async with aclosing(begun.rest) as rest:
            for chunk in begun.held:
                yield chunk
            async for chunk in rest:
                yield chunk
