"""A whole answer as bytes: kept once, given again plain or streamed.

What differs from one response to the next (`id`, `created`) is left out and written anew, so that
giving an answer again takes no parsing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rag_backend.errors import UpstreamBroken
from rag_backend.llm.complete import fold
from rag_backend.llm.provider import Chunk

_ANEW = ("id", "object", "created")
_DONE = b"data: [DONE]\n\n"
_STORABLE = frozenset({"stop", "length", "tool_calls"})


@dataclass(frozen=True, slots=True)
class Recording:
    """An answer as it was given.

    Attributes:
        provider: Who gave it.
        usage: What it took then: `prompt_tokens`, `completion_tokens`, `total_tokens`.
        recorded_at: Unix seconds.
        route: Why that one (`x-route`); None where nothing was routed.
        spared: Tokens that condensing had taken out of its prompt.
    """

    provider: str
    usage: Mapping[str, int]
    recorded_at: int
    _plain: bytes
    _chunks: tuple[bytes, ...]
    route: str | None = None
    spared: int = 0

    @property
    def age(self) -> int:
        """Seconds since it was given."""
        return max(0, int(time.time()) - self.recorded_at)

    def completion(self) -> bytes:
        """The body of a plain response."""
        return _head("chat.completion") + self._plain

    def events(self, *, usage: bool) -> bytes:
        """The body of a streamed one, event by event as it was; `usage`: with the counts."""
        head = b"data: " + _head("chat.completion.chunk")
        chunks = self._chunks if usage else self._chunks[:-1]
        return b"".join([part for tail in chunks for part in (head, tail, b"\n\n")]) + _DONE

    async def replay(self) -> AsyncGenerator[Chunk, None]:
        """The chunks, for whoever does not send bytes on as they are."""
        head = _head("chat.completion.chunk")
        for tail in self._chunks:
            yield orjson.loads(head + tail)

    def dump(self) -> bytes:
        """As one value; `load` reads it."""
        names = ("provider", "usage", "recorded_at", "route", "spared")
        head = {name: getattr(self, name) for name in names}
        # JSON as orjson writes it has no line breaks.
        return b"\n".join([orjson.dumps(head), self._plain, *self._chunks])


def load(value: bytes) -> Recording | None:
    """What `dump` made; None for anything else."""
    head, *tails = value.split(b"\n")
    try:
        parsed = orjson.loads(head)
        return Recording(**parsed, _plain=tails[0], _chunks=tuple(tails[1:]))
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        return None


async def record(chunks: Sequence[Chunk]) -> Recording | None:
    """An answer's chunks, the usage last, as a recording; None where it is not to be kept.

    Kept is what is whole and says something: not what a content filter ended, nor an empty text.
    """
    try:
        folded = await fold(_each(chunks))
    except UpstreamBroken:
        return None
    (choice,) = folded["choices"]
    message = choice["message"]
    says = message["content"] or message["refusal"] or message.get("tool_calls")
    if choice["finish_reason"] not in _STORABLE or not says or not chunks[-1].get("usage"):
        return None
    return Recording(
        folded["provider"],
        chunks[-1]["usage"],
        int(time.time()),
        _tail(folded),
        tuple(map(_tail, chunks)),
    )


async def _each(chunks: Sequence[Chunk]) -> AsyncGenerator[Chunk, None]:
    for chunk in chunks:
        yield chunk


def _head(kind: str) -> bytes:
    """The first fields of a response, in the order in which a first answer has them."""
    return (
        f'{{"id":"chatcmpl-{secrets.token_hex(12)}","object":"{kind}","created":{int(time.time())},'
    ).encode()


def _tail(fields: Mapping[str, Any]) -> bytes:
    """The other fields, and the end of the object."""
    return orjson.dumps({k: v for k, v in fields.items() if k not in _ANEW})[1:]
