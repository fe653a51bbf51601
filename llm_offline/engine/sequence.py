"""One text in the making: its tokens, what of them is computed, and how they become text."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from llm_offline.engine.interface import FinishReason, GenerationRequest, TextDelta, TokenLogprob
from llm_offline.engine.kv_cache import BlockPool, BlockTable
from llm_offline.engine.speculation import MOST, NewGuesser, PromptLookup
from llm_offline.engine.text.detokenizing import Decode, Detokenizer
from llm_offline.engine.text.stopping import StopStrings

_arrivals = count()
# Far apart, so that texts of one request share no noise with those of another seed.
_ANOTHER = 0xD1B54A32D192ED03


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a step drew for one row.

    Attributes:
        tokens: One for each position that was sampled; empty within a prompt.
        logprobs: Of these, where the request asks for them.
        is_number: False where the model computed NaN or infinity: the tokens mean nothing.
    """

    tokens: list[int]
    logprobs: list[TokenLogprob] = field(default_factory=list)
    is_number: bool = True


class Masks(Protocol):
    """Which tokens may come at some positions: a bool tensor `[positions, vocabulary]`."""

    def __getitem__(self, position: int, /) -> Any:
        """Those at one of them: a tensor `[vocabulary]`."""
        ...


class Counts(Protocol):
    """What penalties count of a text; `penalties.Tally` is one."""

    @property
    def said(self) -> int:
        """Tokens that were counted."""
        ...

    def extend(self, tokens: Tokens[int]) -> None:
        """More was said."""
        ...


class Sequence:
    """A request on its way through the engine.

    Attributes:
        tokens: Prompt and what was produced.
        computed: How many of them have their keys and values in the cache.
        cached_tokens: Tokens of the prompt that were found in the cache when it first ran.
        overtaken: How many that came later ran before it.
        announced: Whether its client knows that it runs.
        last_token_at: When its last token came, by the engine's clock; None before the first one.
        allowed: What `restrict` found, before each guess and after the last one; None without a
            grammar.
        tally: What penalties count of its tokens, kept by `drawing`; None where they count nothing.
    """

    def __init__(
        self,
        request: GenerationRequest,
        *,
        limit: int,
        pool: BlockPool,
        decode: Decode,
        stop_ids: frozenset[int],
        noise: int = 0,
        guesser: NewGuesser | None = PromptLookup,
    ) -> None:
        """`limit`: most tokens to produce; `noise`: the seed if the request has none;
        `guesser`: of its next tokens, or None.
        """
        self.request = request
        self.arrival = next(_arrivals)
        self.tokens = list(request.prompt)
        self.computed = 0
        self.cached_tokens = 0
        self.overtaken = 0
        self.announced = False
        self.last_token_at: float | None = None
        self.table = BlockTable(pool, len(request.prompt) + limit)
        self.grammar = request.grammar
        self.allowed: Masks | None = None
        self.tally: Counts | None = None
        seed = request.sampling.seed
        self.seed = (noise if seed is None else seed) + request.number * _ANOTHER
        self._limit = limit
        self._stop_ids = stop_ids
        self._detokenizer = Detokenizer(decode, request.prompt)
        self._stops = StopStrings(request.stop)
        self._guesser = guesser(request.prompt) if guesser else None
        self._was_guessed = False  # the last draft; else it was forced by the grammar
        self._began_again = False  # what the cache holds may be its own

    @property
    def produced(self) -> int:
        """Tokens produced so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def is_decoding(self) -> bool:
        """Only the last token is to be fed: its prompt was read."""
        return self.computed == len(self.tokens) - 1 and self.produced > 0

    def reuse(self) -> None:
        """Take over what the cache holds of the tokens that come next."""
        self.computed = max(self.computed, self.table.reuse(self.tokens))
        if not self._began_again:
            self.cached_tokens = self.table.reused

    def forget(self) -> None:
        """Give all blocks back; everything is to be computed again."""
        self._begin_again()
        self.table.release()

    def move(self, pool: BlockPool) -> None:
        """Begin again in another KV cache; nothing of the old one is given back or trusted."""
        self._begin_again()
        self.table = BlockTable(pool, len(self.request.prompt) + self._limit)
        self.tally = None

    def _begin_again(self) -> None:
        self._began_again |= self.computed > self.table.reused
        self.computed = 0

    def guess(self, rows: int) -> list[int]:
        """Tokens that may come after the last one, in a step of `rows` sequences.

        What a grammar leaves no choice about is no guess: it costs a step's row and always pays.
        """
        if self._guesser is None:
            return []
        # The last one that may be produced needs no guess after it.
        room = max(0, self._limit - self.produced - 1)
        forced = [] if self.grammar is None else self.grammar.forced()[: min(room, MOST)]
        self._was_guessed = not forced
        if forced:
            return forced
        draft = self._guesser.guess(rows)[:room]
        if draft and self.grammar is not None:
            draft = draft[: self.grammar.fitting(draft)]
        return draft

    def restrict(self, draft: Tokens[int]) -> None:
        """Find out which tokens may come after the last one, and after each of the draft's.

        Raises:
            BadRequest: The grammar is too complex to tell.
        """
        if self.grammar is not None:
            self.allowed = self.grammar.allowed(draft)

    def read(self, count: int) -> None:
        """A chunk of the prompt was computed."""
        self.computed += count
        self.table.remember(self.tokens, self.computed)

    def accept(self, fed: int, drawn: Drawn, draft: Tokens[int]) -> TextDelta:
        """Take the tokens that a step drew, as far as its guesses were right.

        Args:
            fed: How many tokens the step was fed with, guesses included.
            drawn: A token for each of the last positions fed. Those after a wrong guess follow
                from a text that is not this one.
            draft: The guesses.
        """
        right = 0
        while right < len(draft) and drawn.tokens[right] == draft[right]:
            right += 1
        before = len(self.tokens)
        text, finish = "", None
        for token in drawn.tokens[: right + 1]:
            self.tokens.append(token)
            piece, finish = self._write(token)
            text += piece
            if finish is not None:
                break
        new = self.tokens[before:]
        self.computed += fed - len(draft) + len(new) - 1
        self.table.remember(self.tokens, self.computed)
        if self._guesser is not None:
            if self._was_guessed:
                self._guesser.judge(len(draft), right)
            self._guesser.extend(new)
        logprobs = tuple(drawn.logprobs[: len(new)])
        return TextDelta(text, self.produced, finish, logprobs, self.cached_tokens)

    def _write(self, token: int) -> tuple[str, FinishReason | None]:
        """The text that a token adds, and whether it is the last one."""
        if self.grammar is not None:
            self.grammar.consume(token)
        ended = token in self._stop_ids
        text = "" if ended else self._stops.push(self._detokenizer.push(token))
        ended = ended or (self.grammar is not None and self.grammar.is_complete)
        full = self.produced >= self._limit
        if ended or full:
            text += self._stops.push(self._detokenizer.flush()) + self._stops.flush()
        if ended or self._stops.hit:
            return text, "stop"
        return text, "length" if full else None
