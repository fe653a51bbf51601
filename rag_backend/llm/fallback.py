"""The next provider, when one fails before it has said anything."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from rag_backend.errors import UnsupportedFeature, UpstreamError, UpstreamRefused
from rag_backend.llm.provider import ChatRequest, Chunk, LLMProvider
from rag_backend.llm.streams import Begun, begin
from rag_backend.telling import severity

log = logging.getLogger(__name__)


class Fallback:
    """Asks providers in order until one brings its first output.

    What came before that is not passed on unless that provider answers. From then on its errors
    are the caller's: text is never sent twice. The first one's refusal is final, be the request
    wrong or what is set for that provider: a stand-in would hide the latter for weeks. A
    stand-in's own refusal tells only what that one cannot do.
    """

    def __init__(
        self,
        providers: Sequence[LLMProvider],
        fell_back: Callable[[Sequence[str], str], None] | None = None,
    ) -> None:
        """`fell_back` is told who failed and who answers instead."""
        self._providers = tuple(providers)
        self._fell_back = fell_back

    @property
    def name(self) -> str:
        """The first provider's name: the one that was chosen."""
        return self._providers[0].name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """See LLMProvider; raises the first provider's error when all fail."""
        begun = await self._begin(request)
        async with aclosing(begun.rest) as rest:
            for chunk in begun.held:
                yield chunk
            async for chunk in rest:
                yield chunk

    async def _begin(self, request: ChatRequest) -> Begun:
        errors: list[UpstreamError] = []
        failed: list[str] = []
        for provider in self._providers:
            try:
                begun = await begin(provider, request)
            except UpstreamError as error:
                if not errors and _is_final(error):
                    raise
                errors.append(error)
                log.log(severity(error), "%s", error)
            except UnsupportedFeature:
                # A later provider that cannot do it does not make the request wrong.
                if not errors:
                    raise
            else:
                if failed and self._fell_back is not None:
                    self._fell_back(failed, provider.name)
                return begun
            failed.append(provider.name)
            # A model's name means something only to the provider that it was given for.
            request = replace(request, model=None)
        raise errors[0]


def _is_final(error: UpstreamError) -> bool:
    """Whether nobody else should be asked either."""
    # A long prompt is ours: whoever reads more, or needs none, may still answer.
    return isinstance(error, UpstreamRefused) and error.code != "context_length_exceeded"
