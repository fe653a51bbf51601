"""Who is computed when, with a network that remembers what lies in its KV cache."""

from __future__ import annotations

import random
from collections.abc import Sequence as Items

import pytest

from llm_offline.engine.interface import GenerationRequest
from llm_offline.engine.scheduler import Scheduler
from llm_offline.engine.sequence import Drawn, Sequence
from llm_offline.engine.step import Row
from tests.llm_offline.engine.stepping import Stepper, said

SIZE = 4


class Memory:
    """Its next token follows from what it reads in its KV cache, as a real network's does.

    A slot that another sequence has overwritten, that was never written, or that two write in one
    step, is found out.
    """

    block_size = SIZE
    step_tokens = 32
    vocabulary = 300

    def __init__(self, blocks: int = 200, *, ends: bool = False) -> None:
        """`ends`: a text may end before it has all the tokens that it may have."""
        self.blocks = blocks
        self.stop_ids = frozenset({0} if ends else ())
        self._slots: dict[int, tuple[int, int]] = {}
        self.batches: list[list[Row]] = []

    def step(self, rows: Items[Row]) -> list[Drawn]:
        self.batches.append(list(rows))
        written: set[int] = set()
        for row in rows:
            for position, token in enumerate(row.tokens, row.start):
                slot = _slot(row.sequence, position)
                assert slot not in written
                written.add(slot)
                self._slots[slot] = position, token
        return [Drawn(self._draws(row)) for row in rows]

    def _draws(self, row: Row) -> list[int]:
        length = row.start + len(row.tokens)
        known = [*row.sequence.tokens[: row.start], *row.tokens]
        seen = [self._slots[_slot(row.sequence, position)] for position in range(length)]
        assert seen == list(enumerate(known))
        # Short cycles, which invite guesses.
        return [
            sum(known[:until][-3:]) * 7 % 11
            for until in range(length - row.samples + 1, length + 1)
        ]

    def tokens_of(self, sequence: Sequence) -> list[int]:
        """How many of a sequence's tokens were computed in each step."""
        return [
            sum(len(row.tokens) for row in rows if row.sequence is sequence)
            for rows in self.batches
        ]


def _slot(sequence: Sequence, position: int) -> int:
    return sequence.table.blocks[position // SIZE] * SIZE + position % SIZE


def _prompt(length: int, seed: int = 1) -> tuple[int, ...]:
    dice = random.Random(seed)
    return tuple(dice.randrange(1, 1000) for _ in range(length))


def _steps_to_first_token(stepper: Stepper, sequence: Sequence) -> int:
    steps = 0
    while not sequence.produced:
        stepper.step()
        steps += 1
        assert steps < 1000
    return steps


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    stepper = Stepper(Memory(), step_tokens=32)
    long = stepper.add(GenerationRequest(_prompt(600, 1)))
    stepper.step()
    short = stepper.add(GenerationRequest(_prompt(20, 2)))
    assert _steps_to_first_token(stepper, short) <= 2
    assert not long.produced


def test_the_oldest_prompt_gets_half_of_each_step_whatever_else_comes() -> None:
    network = Memory(blocks=1000)
    stepper = Stepper(network, step_tokens=32)
    long = stepper.add(GenerationRequest(_prompt(600, 1)))
    steps = 0
    while not long.produced:
        stepper.add(GenerationRequest(_prompt(24, 100 + steps)), limit=1)
        stepper.step()
        steps += 1
    # All came in the order of their lengths, and none of the short ones decodes.
    assert all(tokens >= 16 for tokens in network.tokens_of(long)[:-1])
    assert steps <= 600 / 16 + 1


def test_prompts_of_one_length_are_read_one_after_the_other() -> None:
    network = Memory()
    stepper = Stepper(network, step_tokens=32)
    sequences = [stepper.add(GenerationRequest(_prompt(64, seed)), limit=1) for seed in range(4)]
    stepper.run()
    assert [network.tokens_of(sequence) for sequence in sequences] == [
        [32 if step // 2 == number else 0 for step in range(8)] for number in range(4)
    ]


def test_a_step_reads_as_much_as_it_may() -> None:
    """Also where the short ones need less than their half, or are longer than the oldest."""
    network = Memory()
    stepper = Stepper(network, step_tokens=32, speculate=False)
    for seed, length in enumerate((50, 90, 3, 40, 41, 77)):
        stepper.add(GenerationRequest(_prompt(length, seed)), limit=1)
    stepper.run()
    assert {sum(len(row.tokens) for row in rows) for rows in network.batches[:-1]} == {32}


def test_a_block_that_two_need_is_computed_by_one() -> None:
    network = Memory()
    stepper = Stepper(network, step_tokens=16)
    shared = _prompt(60)
    sequences = [
        stepper.add(GenerationRequest((*shared, *_prompt(length, length))), limit=1)
        for length in (300, 7, 30, 8)
    ]
    stepper.run()
    computed = [sum(network.tokens_of(sequence)) for sequence in sequences]
    assert sum(computed) == 60 + 300 + 7 + 30 + 8
    assert sum(sequence.cached_tokens for sequence in sequences) == 3 * 60


def test_those_for_which_there_is_room_overtake_one_for_which_there_is_none() -> None:
    stepper = Stepper(Memory(blocks=40), most_running=4, speculate=False)
    running = stepper.add(GenerationRequest(_prompt(80, 1)), limit=60)
    stepper.step()
    large = stepper.add(GenerationRequest(_prompt(140, 2)), limit=2)
    small = [stepper.add(GenerationRequest(_prompt(4, 10 + n)), limit=2) for n in range(9)]
    ends: list[Sequence] = []
    while stepper.scheduler.busy:
        before = stepper.scheduler.all()
        stepper.step()
        ends += [one for one in before if one not in stepper.scheduler.all()]
    assert ends.index(small[3]) < ends.index(running) < ends.index(large)
    # No more than run together, though: it does not wait for ever.
    assert large.overtaken == 4
    assert ends.index(large) < ends.index(small[4])


def test_nobody_overtakes_one_whose_text_has_begun() -> None:
    stepper = Stepper(Memory(blocks=12), most_running=4, speculate=False)
    older, younger = (
        stepper.add(GenerationRequest(_prompt(20, seed)), limit=20) for seed in range(2)
    )
    while not stepper.scheduler.preemptions:
        stepper.step()
        assert stepper.scheduler.busy
    assert stepper.scheduler.waiting == [younger]
    assert younger.produced
    late = stepper.add(GenerationRequest((5,)), limit=1)
    while older in stepper.scheduler.running:
        assert not late.produced
        stepper.step()
    stepper.run()
    assert younger.overtaken == 0


def test_prompts_that_do_not_fit_together_are_not_read_together() -> None:
    """Half of a prompt that must then be forgotten would have been read in vain."""
    network = Memory(blocks=40)
    stepper = Stepper(network, step_tokens=16, speculate=False)
    prompts = [_prompt(100, seed) for seed in range(3)]
    sequences = [stepper.add(GenerationRequest(prompt), limit=3) for prompt in prompts]
    stepper.run()
    assert stepper.scheduler.preemptions == 0
    assert [sum(network.tokens_of(sequence)) for sequence in sequences] == [102] * 3


@pytest.mark.parametrize("share", [False, True], ids=["", "prefix cache"])
def test_what_was_found_at_first_counts_as_cached(share: bool) -> None:
    """And not what a sequence itself had computed before it was preempted."""
    stepper = Stepper(Memory(blocks=23), step_tokens=4, share=share, speculate=False)
    shared = _prompt(16)
    stepper.texts_of([GenerationRequest((*shared, 1), max_tokens=1)])
    older = stepper.add(GenerationRequest(_prompt(33, 5)), limit=30)
    _steps_to_first_token(stepper, older)
    younger = stepper.add(GenerationRequest((*shared, *_prompt(34, 6))), limit=4)
    while stepper.scheduler.busy:
        stepper.step()
    assert stepper.scheduler.preemptions == 1
    assert len(said(younger)) == 4
    assert (older.cached_tokens, younger.cached_tokens) == (0, 16 if share else 0)


def _request(dice: random.Random, beginnings: list[tuple[int, ...]]) -> GenerationRequest:
    beginning = dice.choice(beginnings)[: dice.choice([0, 9, 16, 40])]
    own = _prompt(dice.choice([1, 1, 2, 5, 13, 30, 70]), dice.randrange(50))
    prompt = (*beginning, *own)[:100]
    return GenerationRequest(prompt, max_tokens=dice.choice([1, 2, 7, 20]))


def _alone(request: GenerationRequest) -> list[int]:
    return Stepper(Memory(ends=True), share=False, speculate=False).texts_of([request])[0]


@pytest.mark.parametrize("seed", range(60))
def test_whatever_comes_and_goes_all_come_to_their_ends(seed: int) -> None:
    """Texts are what they are alone, no block is lost, and nobody waits for ever."""
    dice = random.Random(seed)
    most_running = dice.choice([1, 2, 4, 8])
    stepper = Stepper(
        Memory(ends=True),
        blocks=dice.choice([30, 32, 45, 80, 200]),
        step_tokens=dice.choice([3, 7, 16, 64]),
        most_running=most_running,
        share=dice.random() < 0.7,
        speculate=dice.random() < 0.5,
    )
    beginnings = [_prompt(40, seed) for seed in (900, 901)]
    alive: list[Sequence] = []
    ended: list[Sequence] = []
    come = 0
    while come < 40 or stepper.scheduler.busy:
        if come < 40 and (dice.random() < 0.3 or not stepper.scheduler.busy):
            come += 1
            alive.append(stepper.add(_request(dice, beginnings)))
        if alive and dice.random() < 0.02:
            stepper.scheduler.remove(alive.pop(dice.randrange(len(alive))))
        if stepper.scheduler.busy:
            stepper.step()
        left = set(stepper.scheduler.all())
        ended += [one for one in alive if one not in left]
        alive = [one for one in alive if one in left]
        _is_consistent(stepper.scheduler)
        assert stepper.steps < 20_000
    assert stepper.pool.available == stepper.pool.blocks
    for sequence in ended:
        assert said(sequence) == _alone(sequence.request)
        assert sequence.overtaken <= most_running


def _is_consistent(scheduler: Scheduler) -> None:
    for group in (scheduler.running, scheduler.waiting):
        assert group == sorted(group, key=lambda one: one.arrival)
    assert not any(sequence.table.blocks for sequence in scheduler.waiting)
    owned = {block for sequence in scheduler.running for block in sequence.table.blocks}
    assert len(owned) == scheduler.pool.blocks - scheduler.pool.available
