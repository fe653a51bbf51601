"""What decides each token that a row of a step draws."""

from __future__ import annotations

from llm_offline.engine.sampler import Draw
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
    prompt = sequence.request.prompt if sampling.penalised else ()
    said = sequence.tokens[len(prompt) :] if sampling.penalised else []
    allowed = sequence.allowed
    return [
        Draw(
            sampling,
            sequence.seed,
            first + number,
            prompt,
            [*said, *row.draft[:number]] if sampling.penalised else (),
            None if allowed is None else allowed[number],
        )
        for number in range(row.samples)
    ]
