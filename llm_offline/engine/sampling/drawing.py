"""What decides each token that a row of a step draws."""

from __future__ import annotations

from llm_offline.engine.sampling.penalties import Tally
from llm_offline.engine.sampling.sampler import Draw
from llm_offline.engine.sequence import Sequence
from llm_offline.engine.step import Row


def draws(row: Row) -> list[Draw]:
    """One for each of the row's last positions.

    Penalties and grammar see the guesses before a position as if they had been said: where one
    of them is wrong, all that is drawn after it is thrown away.
    """
    if not row.samples:
        return []
    sequence = row.sequence
    sampling = sequence.request.sampling
    first = row.start + len(row.tokens) - row.samples + 1
    tally = _tally(sequence) if sampling.penalised else None
    allowed = sequence.allowed
    return [
        Draw(
            sampling,
            sequence.seed,
            first + number,
            tally,
            row.draft[:number],
            None if allowed is None else allowed[number],
        )
        for number in range(row.samples)
    ]


def _tally(sequence: Sequence) -> Tally:
    """The sequence's own one, up to date."""
    prompt, tally = sequence.request.prompt, sequence.tally
    if not isinstance(tally, Tally):
        repeated = sequence.request.sampling.repetition_penalty != 1
        tally = sequence.tally = Tally(prompt if repeated else ())
    tally.extend(sequence.tokens[len(prompt) + tally.said :])
    return tally
