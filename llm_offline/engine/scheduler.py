"""What the next step computes: who decodes, whose prompt is read, who waits.

Sequences join and leave at any step. Those that decode come first. What is left of the step's
budget reads prompts in chunks: at least half of it the one that came first, so that each is read
in the end, and the rest those that lack least, so that a short one does not wait for a long one.
Prompts of one length are read one after the other, as they came.

A sequence may run when the KV cache has room for all of its prompt beside what the others' still
lack. While the first of the queue finds none, later ones overtake it, but only so many of them.
Texts grow: when the cache runs out, the youngest sequence gives its blocks back and waits again;
the oldest can always go on, so all come to an end.
"""

from __future__ import annotations

from bisect import insort

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
        self.waiting: list[Sequence] = []
        """Oldest first."""
        self.running: list[Sequence] = []
        """Oldest first."""
        self.preemptions = 0
        self._preempted: set[Sequence] = set()  # in this step
        # Since the queue was gone through: somebody came or left, or a prompt can be shared.
        self._has_news = False

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Join the queue."""
        insort(self.waiting, sequence, key=_arrival)
        self._has_news = True

    def remove(self, sequence: Sequence) -> None:
        """Finished, failed or given up: its blocks are free."""
        for group in (self.running, self.waiting):
            if sequence in group:
                group.remove(sequence)
        sequence.table.release()
        self._has_news = True

    def all(self) -> list[Sequence]:
        """Everything that is not finished."""
        return [*self.running, *self.waiting]

    def plan(self) -> list[Row]:
        """The next step; never empty while `busy`."""
        self._preempted.clear()
        rows = self._decode()
        # One that has just been preempted must not come back in the same step.
        if self._has_news and not self._preempted:
            self._admit()
        rows += self._read_prompts(self._step_tokens - sum(len(row.tokens) for row in rows))
        return [row for row in rows if row.sequence not in self._preempted]

    def _decode(self) -> list[Row]:
        decoding = [sequence for sequence in self.running if sequence.is_decoding]
        rows = []
        for sequence in decoding:
            if sequence in self._preempted:  # for an older one
                continue
            draft = sequence.guess(len(decoding))
            start = sequence.computed
            if draft and not sequence.table.reserve(start + 1 + len(draft)):
                draft = []
            if self._reserve(sequence, start + 1):
                tokens = [sequence.tokens[-1], *draft]
                rows.append(Row(sequence, start, tokens, len(tokens)))
        return rows

    def _admit(self) -> None:
        """Let all run that may, as they came.

        The room that the first of the queue lacks may do for those behind it. As many overtake it
        as run together, then all wait until it has found some; and nobody overtakes one whose text
        has begun.
        """
        self._has_news = False
        for sequence in self.waiting.copy():
            first = self.waiting[0]
            holds = first.produced or first.overtaken >= self._most_running
            if len(self.running) >= self._most_running or (holds and sequence is not first):
                return
            sequence.reuse()
            if self.running and self._lacking(sequence) > self._room():
                sequence.forget()
                continue
            if sequence is not first:
                first.overtaken += 1
            self.waiting.remove(sequence)
            insort(self.running, sequence, key=_arrival)

    def _lacking(self, sequence: Sequence) -> int:
        """Blocks that it needs for all of its tokens and the next one, and does not own."""
        needed = len(sequence.tokens) // self.pool.size + 1
        return max(0, needed - len(sequence.table.blocks))

    def _room(self) -> int:
        """Blocks that nobody who runs will need for a prompt."""
        return self.pool.available - sum(map(self._lacking, self.running))

    def _read_prompts(self, budget: int) -> list[Row]:
        """Chunks of prompts, of `budget` tokens in all."""
        readers = [sequence for sequence in self.running if not sequence.is_decoding]
        if not readers or budget <= 0:
            return []
        for sequence in readers:
            sequence.reuse()
        oldest = readers[0]
        kept = min(_unread(oldest), -(-budget // 2))
        # The same new block in two prompts is computed once: the second waits a step for it.
        in_the_making = {self._shareable(oldest)}
        rows = []
        for sequence in sorted(readers, key=_unread):
            if sequence is oldest:
                kept = 0
            start = sequence.computed
            chunk = sequence.tokens[start : start + budget - kept]
            block = self._shareable(sequence)
            waits = block is not None and block in in_the_making and sequence is not oldest
            if not chunk or waits or not self._reserve(sequence, start + len(chunk)):
                continue
            in_the_making.add(block)
            whole = len(chunk) == _unread(sequence)
            self._has_news |= whole
            rows.append(Row(sequence, start, chunk, 1 if whole else 0))
            budget -= len(chunk)
        return rows

    def _shareable(self, sequence: Sequence) -> Content | None:
        """The next block of its prompt, if others may need the same one."""
        return sequence.table.next_content(sequence.tokens) if self.pool.shares else None

    def _reserve(self, sequence: Sequence, tokens: int) -> bool:
        """Room for `tokens` of a sequence, younger ones preempted for it if need be."""
        if sequence in self._preempted:
            return False
        while not sequence.table.reserve(tokens):
            victim = self.running[-1]
            if victim is sequence:
                return False
            self._preempt(victim)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        sequence.forget()
        self.add(sequence)
        self._preempted.add(sequence)
        self.preemptions += 1


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival


def _unread(sequence: Sequence) -> int:
    """Tokens that are to be fed before the next one can be drawn."""
    return len(sequence.tokens) - sequence.computed
