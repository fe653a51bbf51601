"""What the HTTP layer and an engine know of each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from llm_offline.engine.histogram import Histogram

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. The defaults leave the model's own distribution as it is.

    Attributes:
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: Smallest probability mass to draw from, 0 to 1; 1 is the whole vocabulary.
        seed: The same seed and prompt give the same text; None draws a fresh one.
        top_k: Draw from so many most likely tokens; 0 is all.
        min_p: Least probability of a token, as a share of the most likely one's.
        repetition_penalty: Divides (or, below 0, multiplies) the logits of tokens that the prompt
            or the text has (Keskar et al., 2019).
        presence_penalty: Taken from the logits of tokens that the text has.
        frequency_penalty: The same, times how often.
        logit_bias: (token id, added to its logit).
        logprobs: Report this many most likely tokens at each position, and the drawn one's
            log-probability, both of the model's own distribution; None reports nothing.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None

    @property
    def penalised(self) -> bool:
        """Whether what was said before changes the logits."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


class Grammar(Protocol):
    """Restricts one text, token by token; `grammar.Matcher` is one."""

    @property
    def is_complete(self) -> bool:
        """Whether the text can only end now."""
        ...

    def forced(self) -> list[int]:
        """The tokens that come next whatever the model says; often empty."""
        ...

    def fitting(self, tokens: Sequence[int]) -> int:
        """How many of `tokens`, from the first one on, may come next."""
        ...

    def allowed(self, draft: Sequence[int] = ()) -> Any:
        """Tokens that may come next, and after each token of a fitting draft.

        bool tensor `[len(draft) + 1, vocabulary]`; raises `BadRequest` if the grammar is too
        complex to tell.
        """
        ...

    def consume(self, token: int) -> None:
        """The text goes on with `token`; raises `BadRequest` if the grammar is too complex."""
        ...


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One text to be produced.

    Attributes:
        prompt: Token ids, special tokens included; never empty.
        sampling: How tokens are drawn.
        max_tokens: Most tokens to produce, at least 1; None means what the context leaves.
        stop: Strings that end the text and are not part of it.
        number: Which of several texts for one prompt and seed this is: each has other noise.
        grammar: What the text must follow, made for this request alone; None is nothing.
    """

    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    number: int = 0
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A drawn token and its alternatives, with natural-log probabilities.

    Attributes:
        token: The id drawn.
        logprob: Its log-probability.
        top: The most likely ids, in order, as many as were asked for.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called, with its arguments as a JSON object's text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What one or more steps added.

    Attributes:
        text: Whole characters, without special tokens or stop strings; may be empty.
        completion_tokens: Tokens produced so far.
        finish_reason: Set on the last delta only.
        logprobs: Of the tokens added, if they were asked for.
        cached_tokens: Tokens of the prompt that did not have to be computed.
        tool_calls: Calls that the text consisted of; they are in place of it.
    """

    text: str
    completion_tokens: int
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    tool_calls: tuple[ToolCall, ...] = ()


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

    async def aclose(self, *, is_whole: bool = False) -> None:
        """Give the text up: whatever is queued or running for it is freed within a step.

        `is_whole`: it has all that was wanted of it, and counts as one that came to its end.
        """
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
        kv_cache_usage: Share of the KV cache that running requests hold.
        counters: What else was counted, by its name in `/metrics`.
        histograms: Durations in seconds, by name.
        failing: The kind of error that every step meets by now; None while the model computes.
    """

    waiting: int
    running: int
    queue_limit: int
    finished: dict[str, int]
    prompt_tokens: int
    generation_tokens: int
    kv_cache_usage: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    failing: str | None = None


class Engine(Protocol):
    """Anything that turns requests into text."""

    def generate(self, request: GenerationRequest, places: int = 1) -> Generation:
        """Admit a request; it joins the queue at once. Called on the event loop.

        Args:
            places: How many must be free: those for what is asked for together with this one too.

        Raises:
            BadRequest: There are not so many places, or a token that the model does not know.
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
