"""What the next step computes: who decodes, whose prompt is read, who waits.

Sequences join and leave at any step. Those that decode come first; what is left of the step's
budget reads prompts in chunks, so that a long one does not stall the others. When the KV cache
runs out, the youngest sequence gives its blocks back and waits again; the oldest can always go
on, so all come to an end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from llm_offline.engine.kv_cache import BlockPool, Content
from llm_offline.engine.sequence import Sequence
from llm_offline.engine.step import Row


class Scheduler:
    """Holds all sequences that are not finished; used by one thread."""

    def __init__(self, pool: BlockPool, *, most_running: int, step_tokens: int) -> None:
        """`most_running` sequences a step; `step_tokens`: a step's budget, in tokens."""
        self.pool = pool
        self._most_running = most_running
        self._step_tokens = step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        """Oldest first."""
        self.preemptions = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Join the queue."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Finished, failed or given up: its blocks are free."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        sequence.table.release()

    def all(self) -> list[Sequence]:
        """Everything that is not finished."""
        return [*self.running, *self.waiting]

    def plan(self) -> list[Row]:
        """The next step; never empty while `busy`."""
        rows = self._decode()
        budget = self._step_tokens - sum(len(row.tokens) for row in rows)
        # The same new block in two prompts is computed once: the second waits a step for it.
        in_the_making: set[Content] = set()
        preempted = self.preemptions
        budget = self._read_prompts(list(self.running), rows, budget, in_the_making)
        # One that has just been preempted must not come back in the same step.
        while budget > 0 and self.preemptions == preempted and (admitted := self._admit()):
            budget = self._read_prompts([admitted], rows, budget, in_the_making)
        return [row for row in rows if row.sequence in self.running]

    def _decode(self) -> list[Row]:
        decoding = [sequence for sequence in self.running if sequence.is_decoding]
        rows = []
        for sequence in decoding:
            if sequence not in self.running:  # preempted for an older one
                continue
            draft = sequence.guess(len(decoding))
            start = sequence.computed
            if draft and not sequence.table.reserve(start + 1 + len(draft)):
                draft = []
            if self._reserve(sequence, start + 1):
                tokens = [sequence.tokens[-1], *draft]
                rows.append(Row(sequence, start, tokens, len(tokens)))
        return rows

    def _read_prompts(
        self, readers: Iterable[Sequence], rows: list[Row], budget: int, making: set[Content]
    ) -> int:
        """Add chunks of the readers' prompts to `rows`; what is left of the budget."""
        for sequence in readers:
            if sequence.is_decoding or sequence not in self.running or budget <= 0:
                continue
            sequence.reuse()
            content = sequence.table.next_content(sequence.tokens)
            if content is not None and content in making:
                continue
            start = sequence.computed
            chunk = sequence.tokens[start : start + budget]
            if not self._reserve(sequence, start + len(chunk)):
                continue
            if content is not None and self.pool.shares:
                making.add(content)
            whole = start + len(chunk) == len(sequence.tokens)
            rows.append(Row(sequence, start, chunk, 1 if whole else 0))
            budget -= len(chunk)
        return budget

    def _admit(self) -> Sequence | None:
        """Let the first of the queue run, if there is room for all of its prompt."""
        if not self.waiting or len(self.running) >= self._most_running:
            return None
        sequence = self.waiting[0]
        sequence.reuse()
        lacking = -(-(len(sequence.tokens) + 1) // self.pool.size) - len(sequence.table.blocks)
        if self.running and lacking > self.pool.available:
            sequence.forget()
            return None
        self.running.append(self.waiting.popleft())
        self.running.sort(key=lambda one: one.arrival)
        return sequence

    def _reserve(self, sequence: Sequence, tokens: int) -> bool:
        """Room for `tokens` of a sequence, younger ones preempted for it if need be."""
        while not sequence.table.reserve(tokens):
            victim = self.running[-1]
            if victim is sequence:
                return False
            self._preempt(victim)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        sequence.forget()
        self.waiting.appendleft(sequence)
        self.preemptions += 1
