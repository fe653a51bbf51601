"""Tokens against those of `generate`, however requests are batched, cut, cached and guessed."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest

from llm_offline.engine.interface import GenerationRequest, Sampling
from llm_offline.engine.runner import Runner
from tests.llm_offline.engine.models import CONFIGS, STOP, VOCABULARY, generated, random_model
from tests.llm_offline.engine.stepping import Stepper

GREEDY = Sampling(temperature=0)
LENGTH = 32


def _prompts() -> list[tuple[int, ...]]:
    """Mixed lengths; two begin the same way; some repeat themselves, which invites guesses."""
    dice = random.Random(0)

    def some(count: int) -> tuple[int, ...]:
        return tuple(dice.randrange(3, VOCABULARY) for _ in range(count))

    shared = some(40)
    return [some(3), shared + some(9), shared + some(30), some(5) * 8, some(100), (7,)]


@cache
def _expected(kind: str) -> list[list[int]]:
    model = random_model(CONFIGS[kind]())
    return [generated(model, prompt, LENGTH) for prompt in _prompts()]


@cache
def _runner(kind: str) -> Runner:
    runner = Runner(random_model(CONFIGS[kind]()), device="cpu", stop_ids=frozenset({STOP}))
    runner.allocate(2048)
    return runner


def _greedy() -> list[GenerationRequest]:
    return [GenerationRequest(prompt, GREEDY) for prompt in _prompts()]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    "options",
    [
        {"share": False, "speculate": False},
        {"share": True, "speculate": True, "step_tokens": 24},
    ],
    ids=["plain", "all"],
)
def test_greedy_is_token_for_token_what_generate_gives(kind: str, options: Any) -> None:
    assert Stepper(_runner(kind), **options).texts_of(_greedy()) == _expected(kind)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("step_tokens", [7, 256])
@pytest.mark.parametrize("blocks", [10, 128])
def test_nothing_but_the_model_decides(
    share: bool, speculate: bool, step_tokens: int, blocks: int
) -> None:
    kind = "llama, tied weights"
    stepper = Stepper(
        _runner(kind), blocks=blocks, share=share, speculate=speculate, step_tokens=step_tokens
    )
    assert stepper.texts_of(_greedy()) == _expected(kind)
    # Once more: now the cache may know the beginnings.
    assert stepper.texts_of(_greedy()) == _expected(kind)
    assert stepper.pool.available == blocks
    if blocks == 10:
        assert stepper.scheduler.preemptions > 0
