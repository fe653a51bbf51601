"""Runs requests through scheduler and model without a thread."""

from __future__ import annotations

from collections.abc import Sequence as Items

from llm_offline.engine.interface import GenerationRequest
from llm_offline.engine.kv_cache import BlockPool
from llm_offline.engine.scheduler import Scheduler
from llm_offline.engine.sequence import Sequence
from llm_offline.engine.speculation import PromptLookup
from llm_offline.engine.step import Network


class Stepper:
    """The engine's loop, one step a call."""

    def __init__(
        self,
        network: Network,
        *,
        blocks: int | None = None,
        step_tokens: int = 256,
        most_running: int = 16,
        share: bool = True,
        speculate: bool = True,
    ) -> None:
        self.network = network
        self.pool = BlockPool(blocks or network.blocks, network.block_size, share=share)
        self.scheduler = Scheduler(self.pool, most_running=most_running, step_tokens=step_tokens)
        self.speculate = speculate
        self.texts: dict[Sequence, list[int]] = {}
        self.steps = 0

    def add(self, request: GenerationRequest, limit: int = 32) -> Sequence:
        sequence = Sequence(
            request,
            limit=request.max_tokens or limit,
            pool=self.pool,
            decode=lambda tokens: "x" * len(tokens),
            stop_ids=self.network.stop_ids,
            guesser=PromptLookup if self.speculate else None,
        )
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> None:
        rows = self.scheduler.plan()
        for row in rows:
            if row.samples:
                row.sequence.restrict(row.draft)
        self.steps += 1
        for row, drawn in zip(rows, self.network.step(rows), strict=True):
            assert drawn.is_number
            if not row.samples:
                row.sequence.read(len(row.tokens))
            elif row.sequence.accept(len(row.tokens), drawn, row.draft).finish_reason:
                self.scheduler.remove(row.sequence)

    def run(self) -> None:
        while self.scheduler.busy:
            self.step()

    def texts_of(self, requests: Items[GenerationRequest]) -> list[list[int]]:
        """All together: the tokens that each gives."""
        sequences = [self.add(request) for request in requests]
        self.run()
        return [said(sequence) for sequence in sequences]


def said(sequence: Sequence) -> list[int]:
    """The tokens it produced."""
    return sequence.tokens[len(sequence.request.prompt) :]
