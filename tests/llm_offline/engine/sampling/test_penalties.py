"""Tallies that are kept from step to step, against the library's processor and plain counting."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from llm_offline.engine.interface import GenerationRequest, Sampling
from llm_offline.engine.kv_cache import BlockPool
from llm_offline.engine.sampling import drawing
from llm_offline.engine.sampling.penalties import Tally
from llm_offline.engine.sequence import Drawn, Sequence
from llm_offline.engine.step import Row

VOCABULARY = 60
WISHES = [
    Sampling(repetition_penalty=1.3),
    Sampling(repetition_penalty=0.7, frequency_penalty=0.3),
    Sampling(presence_penalty=0.4, frequency_penalty=-0.2),
    Sampling(presence_penalty=-1.1),
]


def _wanted(
    logits: torch.Tensor, wishes: Sampling, prompt: list[int], said: list[int]
) -> torch.Tensor:
    """The library's processor, then what OpenAI's description of the other two says."""
    seen = torch.tensor([[*prompt, *said]])
    penalised = RepetitionPenaltyLogitsProcessor(wishes.repetition_penalty)(
        seen,  # type: ignore[arg-type]
        logits[None].clone(),  # type: ignore[arg-type]
    )[0]
    for token, times in Counter(said).items():
        penalised[token] -= wishes.presence_penalty + wishes.frequency_penalty * times
    return penalised


@pytest.mark.parametrize("wishes", WISHES, ids=str)
def test_a_tally_that_grows_counts_as_one_made_anew(wishes: Sampling) -> None:
    dice = random.Random(1)
    for _ in range(20):
        prompt = [dice.randrange(VOCABULARY) for _ in range(dice.randint(1, 40))]
        said = [dice.randrange(VOCABULARY) for _ in range(30)]
        tally = Tally(prompt)
        cuts = sorted({0, *(dice.randrange(30) for _ in range(8))})
        for start, until in pairwise([*cuts, len(said)]):
            draft = [dice.randrange(VOCABULARY) for _ in range(dice.randint(0, 4))]
            logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(start))
            found = logits.clone()
            tally.penalise(found, wishes, draft)
            wanted = _wanted(logits, wishes, prompt, [*said[:start], *draft])
            assert torch.allclose(found, wanted)
            # As if there had been no draft: a text may not depend on guesses.
            again = logits.clone()
            Tally(prompt, [*said[:start], *draft]).penalise(again, wishes)
            assert torch.equal(found, again)
            tally.extend(said[start:until])
        assert tally.said == len(said)


def test_a_sequence_keeps_its_tally() -> None:
    """What is accepted is counted once, however often a step is drawn; guesses are not kept."""
    wishes = Sampling(temperature=0, repetition_penalty=1.2, frequency_penalty=0.5)
    sequence = Sequence(
        GenerationRequest((5, 6, 6), wishes),
        limit=9,
        pool=BlockPool(8, 4),
        decode=lambda tokens: "",
        stop_ids=frozenset(),
    )
    sequence.table.reserve(3)
    first = Row(sequence, 0, [5, 6, 6], 1)
    (draw,) = drawing.draws(first)
    tally = draw.tally
    assert tally is not None
    sequence.accept(3, Drawn([7]), [])
    # Drawn twice, as when a step that failed is computed again in halves.
    for _ in range(2):
        drawn = drawing.draws(Row(sequence, 3, [7, 8, 9], 3))
        assert [draw.tally for draw in drawn] == [tally] * 3
        assert [draw.draft for draw in drawn] == [[], [8], [8, 9]]
        assert tally.said == 1
    sequence.accept(3, Drawn([8, 4, 1]), [8, 9])
    drawing.draws(Row(sequence, 5, [4], 1))
    assert tally.said == 3
    found, wanted = (torch.linspace(-1, 1, 10) for _ in range(2))
    tally.penalise(found, wishes)
    assert torch.allclose(found, _wanted(wanted, wishes, [5, 6, 6], [7, 8, 4]))


def test_who_penalises_nothing_has_no_tally() -> None:
    sequence = Sequence(
        GenerationRequest((5, 6)),
        limit=9,
        pool=BlockPool(8, 4),
        decode=lambda tokens: "",
        stop_ids=frozenset(),
    )
    assert drawing.draws(Row(sequence, 0, [5, 6], 1))[0].tally is None
