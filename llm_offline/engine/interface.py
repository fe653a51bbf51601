"""What the HTTP layer and an engine know of each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: Smallest probability mass to draw from, 0 to 1; 1 is the whole vocabulary.
        seed: The same seed and prompt give the same text; None draws a fresh one.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One text to be produced.

    Attributes:
        prompt: Token ids, special tokens included; never empty.
        sampling: How tokens are drawn.
        max_tokens: Most tokens to produce, at least 1; None means what the context leaves.
        stop: Strings that end the text and are not part of it.
    """

    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What one or more steps added.

    Attributes:
        text: Whole characters, without special tokens or stop strings; may be empty.
        completion_tokens: Tokens produced so far.
        finish_reason: Set on the last delta only.
    """

    text: str
    completion_tokens: int
    finish_reason: FinishReason | None = None


class Generation(Protocol):
    """A request that was admitted: an iterator of deltas, the last one with a finish reason.

    Iterating raises `llm_offline.errors.GenerationFailed`, `OutOfMemory` or `ShuttingDown`.
    """

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt, in tokens."""
        ...

    def __aiter__(self) -> AsyncIterator[TextDelta]: ...

    async def __anext__(self) -> TextDelta: ...

    async def aclose(self) -> None:
        """Give the text up: whatever is queued or running for it is freed within a step."""
        ...


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The engine at this moment, and what it did since the start.

    Attributes:
        waiting: Requests in the queue.
        running: Requests being generated.
        queue_limit: Requests that may wait.
        finished: Requests ended, by how: stop, length, cancelled or error.
        prompt_tokens: Tokens of all prompts that were read.
        generation_tokens: Tokens produced.
    """

    waiting: int
    running: int
    queue_limit: int
    finished: dict[str, int]
    prompt_tokens: int
    generation_tokens: int


class Engine(Protocol):
    """Anything that turns requests into text."""

    def generate(self, request: GenerationRequest) -> Generation:
        """Admit a request; it joins the queue at once. Called on the event loop.

        Raises:
            ContextExceeded: The prompt leaves no room for one token.
            QueueFull: As many wait as may wait.
            ShuttingDown: `stop` was called.
        """
        ...

    def status(self) -> EngineStatus:
        """Queue and counters."""
        ...

    def stop(self) -> None:
        """Refuse new requests and end all others with `ShuttingDown`. Called on the event loop."""
        ...

    def join(self, seconds: float) -> bool:
        """After `stop`, wait for the work to end; False when a step still runs."""
        ...
