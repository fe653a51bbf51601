"""The one interface of a language-model provider, and what flows through it.

Chunks are plain dicts in OpenAI's wire shape (`chat.completion.chunk`): a provider forwards what
an upstream sends without parsing it into models, and every wrapper sees the same thing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rag_backend.llm.notes import Note

Chunk = dict[str, Any]
"""One `chat.completion.chunk` object in OpenAI's wire shape."""

Message = Mapping[str, Any]
"""One chat message in OpenAI's wire shape; `content` is a plain string here."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One passage a request is to be answered from; `number` is its marker in the prompt.

    `question` and `answer` are the two cells of a question/answer sheet's row; "" elsewhere.
    """

    number: int
    title: str
    text: str
    score: float
    question: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Grounding:
    """What the answer must rest on, for providers that need no language model.

    Attributes:
        question: The question as it stands alone, after rewriting.
        language: ISO 639-1 code of the question's language, "vi" or "en".
        passages: Best first. Empty when the request is plain chat.
        terms: Weight of each folded query term (inverse document frequency in the store).
    """

    question: str
    language: str
    passages: tuple[Evidence, ...] = ()
    terms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completion to be produced.

    Attributes:
        messages: The whole prompt, in OpenAI's wire shape.
        options: Sampling and other parameters passed on as they are (temperature, max_tokens,
            stop, seed, tools, ...). Never `model`, `messages`, `stream` or `stream_options`.
        model: Name to send upstream; None means the provider's own.
        grounding: What the answer rests on; None when nothing was retrieved.
        minor: A chat client's own task (a title, tags), not a question of its user.
        note: Where policies write down what they decided; None where nobody wants to know.
    """

    messages: tuple[Message, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    grounding: Grounding | None = None
    minor: bool = False
    note: Note | None = field(default=None, compare=False)


class LLMProvider(Protocol):
    """Anything that can turn a request into a stream of chunks.

    `stream` yields `chat.completion.chunk` dicts. A whole answer has a chunk with a
    `finish_reason`, and after it at most one chunk with `choices: []` and the `usage`. Raises
    `rag_backend.errors.UpstreamError` (or a subclass) before the first content delta or in the
    middle; closing the generator (`aclose`) frees the upstream at once.
    """

    @property
    def name(self) -> str:
        """The name it is registered under."""
        ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Produce the answer, chunk by chunk."""
        ...
