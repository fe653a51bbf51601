"""What goes into one step of the model, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol

from llm_offline.engine.sequence import Drawn, Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence's part in a step.

    Attributes:
        sequence: Whose.
        start: Position of the first token that is fed.
        tokens: What is fed: a chunk of the prompt, or the last token and guesses after it.
        samples: For how many of the last positions a token is drawn: none within a prompt.
    """

    sequence: Sequence
    start: int
    tokens: list[int]
    samples: int

    @property
    def draft(self) -> list[int]:
        """The guesses among the tokens."""
        return self.tokens[1:] if self.samples > 1 else []


class Network(Protocol):
    """A model that the engine steps; `runner.Runner` is one."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a text."""
        ...

    @property
    def blocks(self) -> int:
        """Blocks of its KV cache."""
        ...

    @property
    def block_size(self) -> int:
        """Tokens a block."""
        ...

    @property
    def vocabulary(self) -> int:
        """Width of its logits: it knows the token ids below."""
        ...

    @property
    def step_tokens(self) -> int:
        """Most tokens a step should have."""
        ...

    def step(self, rows: Items[Row]) -> list[Drawn]:
        """Compute all rows together and draw their tokens; raises `OutOfMemory`."""
        ...
