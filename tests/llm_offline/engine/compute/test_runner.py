"""Tokens against those of `generate`, however requests are batched, cut, cached and guessed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence as Items
from functools import cache
from typing import Any

import pytest
import torch
from transformers import BloomConfig, MambaConfig, Qwen3NextConfig

from llm_offline.engine.compute import attention
from llm_offline.engine.compute.decoding import plain_decode
from llm_offline.engine.compute.runner import Runner
from llm_offline.engine.continuous import ContinuousBatching
from llm_offline.engine.interface import GenerationRequest, Sampling
from llm_offline.engine.sampling import sampler
from llm_offline.engine.weights.arranging import arrange, held_by
from llm_offline.engine.weights.joined import Product
from llm_offline.errors import OutOfMemory, StartError
from llm_offline.weighing import expected_kv_token
from tests.llm_offline.engine.models import CONFIGS, STOP, VOCABULARY, generated, random_model
from tests.llm_offline.engine.stepping import Stepper

GREEDY = Sampling(temperature=0)
LENGTH = 32
THREE = ["llama, tied weights", "qwen3", "gemma3, a window"]
"""Without and with norms of queries and keys, with layers that see a window only."""


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
def _runner(kind: str, fixed: bool = False) -> Runner:
    """`fixed`: with steps of fixed shape, as on a GPU; else laid out as loading does on a CPU."""
    model = random_model(CONFIGS[kind]())
    if not fixed:
        arrange(model, "none", device="cpu", dtype=torch.float32)
    runner = Runner(
        model,
        device="cpu",
        stop_ids=frozenset({STOP}),
        decode=plain_decode if fixed else None,
    )
    runner.allocate(2048, context=256)
    assert (runner.decoding is not None) == fixed
    return runner


def _greedy() -> list[GenerationRequest]:
    return [GenerationRequest(prompt, GREEDY) for prompt in _prompts()]


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    "options",
    [
        {"share": False, "speculate": False},
        {"share": True, "speculate": True, "step_tokens": 24},
    ],
    ids=["plain", "all"],
)
def test_greedy_is_token_for_token_what_generate_gives(
    kind: str, options: Any, fixed: bool
) -> None:
    assert Stepper(_runner(kind, fixed), **options).texts_of(_greedy()) == _expected(kind)


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [*((kind, 128) for kind in THREE), ("llama, tied weights", 10)],
    ids=[*THREE, "llama, preempted"],
)
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("share", [False, True], ids=["", "prefix cache"])
@pytest.mark.parametrize("speculate", [False, True], ids=["", "speculation"])
@pytest.mark.parametrize("step_tokens", [7, 256], ids=["chunks", ""])
def test_nothing_but_the_model_decides(
    kind: str, blocks: int, share: bool, speculate: bool, step_tokens: int, fixed: bool
) -> None:
    stepper = Stepper(
        _runner(kind, fixed),
        blocks=blocks,
        share=share,
        speculate=speculate,
        step_tokens=step_tokens,
    )
    assert stepper.texts_of(_greedy()) == _expected(kind)
    # Once more: now the cache may know the beginnings.
    assert stepper.texts_of(_greedy()) == _expected(kind)
    assert stepper.pool.available == blocks
    if blocks == 10:
        assert stepper.scheduler.preemptions > 0


@pytest.mark.parametrize("kind", CONFIGS)
def test_whole_prompts_may_be_read_as_causal_text(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What chunks of 512 tokens and more do, which only a GPU has in a step."""
    monkeypatch.setattr(attention, "_SKIPPING", 2)
    stepper = Stepper(_runner(kind), share=False, speculate=False)
    assert stepper.texts_of(_greedy()) == _expected(kind)


@pytest.mark.parametrize("kind", THREE)
async def test_the_engine_says_what_generate_says(kind: str) -> None:
    """Through its thread and as text, all together and one after the other."""

    def decode(tokens: Items[int]) -> str:
        return "".join(chr(0x100 + token) for token in tokens if token != STOP)

    engine = ContinuousBatching(_runner(kind), decode, context=512, max_queue=9, max_batch=4)
    wanted = [decode(tokens) for tokens in _expected(kind)]

    async def text(prompt: tuple[int, ...]) -> str:
        request = GenerationRequest(prompt, GREEDY, LENGTH)
        return "".join([delta.text async for delta in engine.generate(request)])

    assert await asyncio.gather(*map(text, _prompts())) == wanted
    assert [await text(prompt) for prompt in _prompts()] == wanted
    engine.stop()
    assert engine.join(10)


@pytest.mark.parametrize(
    "config",
    [
        # No attention at all, one without an interface, and one in some layers only.
        MambaConfig(vocab_size=300, hidden_size=64, num_hidden_layers=2),
        BloomConfig(vocab_size=300, hidden_size=64, n_layer=2, n_head=4),
        Qwen3NextConfig(
            vocab_size=300,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=16,
            linear_value_head_dim=16,
            num_experts=4,
            num_experts_per_tok=2,
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_attention_of_another_kind_is_refused(config: Any) -> None:
    with pytest.raises(StartError, match="use a model such as Llama"):
        Runner(random_model(config), device="cpu", stop_ids=frozenset())


def test_logits_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def seeing_all(
        segment: attention.Segment, window: int | None, groups: int, like: torch.Tensor
    ) -> torch.Tensor:
        return like.new_zeros(groups * segment.count, segment.length)

    monkeypatch.setattr(attention.Segment, "bias", seeing_all)
    runner = Runner(random_model(CONFIGS["qwen3"]()), device="cpu", stop_ids=frozenset())
    with pytest.raises(StartError, match="differs from the model's own"):
        runner.allocate(256)


def _broken(*arguments: Any) -> torch.Tensor:
    raise RuntimeError("Failed to find a C compiler")


def _misshapen(*arguments: Any) -> torch.Tensor:
    raise ValueError("Shape element 0 must be a power of 2\n  at line 7")


def _misplaced(*arguments: Any) -> torch.Tensor:
    raise TypeError("launch() takes 9 arguments")


def _asserting(*arguments: Any) -> torch.Tensor:
    raise AssertionError


def _wrong(*arguments: Any) -> torch.Tensor:
    return plain_decode(*arguments) * 1.5


@pytest.mark.parametrize(
    ("decode", "reason"),
    [
        (_broken, "C compiler"),
        (_misshapen, "here: Shape element 0 must be a power of 2"),
        (_misplaced, "launch() takes 9 arguments"),
        (_asserting, "AssertionError"),
        (_wrong, "differs from the model's own by"),
    ],
)
def test_a_kernel_that_does_not_work_here_is_left_out(
    decode: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    kind = "llama, tied weights"
    model = random_model(CONFIGS[kind]())
    runner = Runner(model, device="cpu", stop_ids=frozenset({STOP}), decode=decode)
    runner.allocate(2048, context=256)
    assert runner.decoding is None
    assert [reason in line for line in caplog.messages] == [True]
    assert Stepper(runner).texts_of(_greedy()) == _expected(kind)


def test_more_rows_than_the_largest_bucket_go_in_parts() -> None:
    kind = "llama, tied weights"
    model = random_model(CONFIGS[kind]())
    runner = Runner(model, device="cpu", stop_ids=frozenset({STOP}), decode=plain_decode)
    runner.allocate(2048, context=256, most_rows=2)
    assert Stepper(runner).texts_of(_greedy()) == _expected(kind)


PENALISED = [
    Sampling(temperature=0, repetition_penalty=1.3),
    Sampling(temperature=0, frequency_penalty=0.7, presence_penalty=0.4),
    Sampling(temperature=0, frequency_penalty=-0.8),
    Sampling(temperature=0.7, seed=3, repetition_penalty=0.8, top_k=40),
    Sampling(temperature=0.4, seed=4, presence_penalty=-1.5, min_p=0.02),
    Sampling(temperature=1.0, seed=5, frequency_penalty=0.2, top_p=0.9),
]
SAMPLED = [
    Sampling(temperature=temperature, top_p=0.95, seed=seed)
    for temperature, seed in ((0.3, 1), (0.8, 1), (0.3, 2), (0.1, 5), (1.0, 4), (0.2, 9))
]


@pytest.mark.parametrize("wishes", [SAMPLED, PENALISED], ids=["sampled", "penalised"])
@pytest.mark.parametrize("kind", THREE)
@pytest.mark.parametrize("fixed", [False, True])
def test_texts_do_not_depend_on_the_batch(kind: str, wishes: list[Sampling], fixed: bool) -> None:
    """Alone or together, cut, guessed or preempted: a seed gives one text."""
    requests = [
        GenerationRequest(prompt, sampling)
        for prompt, sampling in zip(_prompts(), wishes, strict=True)
    ]
    together = Stepper(_runner(kind, fixed), blocks=12, step_tokens=21).texts_of(requests)
    for request, text in zip(requests, together, strict=True):
        alone = Stepper(_runner(kind), share=False, speculate=False).texts_of([request])
        guessed = Stepper(_runner(kind)).texts_of([request])
        assert alone == guessed == [text]


def test_a_repetition_penalty_is_the_librarys_to_the_last_token() -> None:
    """Also over a whole text, with guesses."""
    kind = "llama, tied weights"
    model = random_model(CONFIGS[kind]())
    requests = [
        GenerationRequest(prompt, Sampling(temperature=0, repetition_penalty=1.3))
        for prompt in _prompts()
    ]
    wanted = [generated(model, p, LENGTH, repetition_penalty=1.3) for p in _prompts()]
    assert Stepper(_runner(kind)).texts_of(requests) == wanted


def test_guesses_are_tried_and_some_are_right() -> None:
    """A model that goes round in circles is guessed well: fewer steps than tokens."""
    kind = "llama, tied weights"
    request = GenerationRequest(_prompts()[3], GREEDY, max_tokens=64)
    plain, guessing = (Stepper(_runner(kind), speculate=on) for on in (False, True))
    assert plain.texts_of([request]) == guessing.texts_of([request])
    assert guessing.steps <= plain.steps


def test_guesses_are_tried_under_penalties_too() -> None:
    request = GenerationRequest(
        _prompts()[3], Sampling(temperature=0, frequency_penalty=-2), max_tokens=64
    )
    plain, guessing = (Stepper(_runner("qwen3"), speculate=on) for on in (False, True))
    assert plain.texts_of([request]) == guessing.texts_of([request])
    assert guessing.steps < 0.7 * plain.steps


def test_a_prefix_is_read_once_even_by_those_that_come_together() -> None:
    kind = "llama, tied weights"
    shared = _prompts()[4]
    stepper = Stepper(_runner(kind), step_tokens=64)
    sequences = [
        stepper.add(GenerationRequest((*shared, 10 + number), GREEDY), limit=2)
        for number in range(6)
    ]
    stepper.run()
    assert [sequence.cached_tokens for sequence in sequences] == [0] + [96] * 5


def test_running_out_of_memory_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **more: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sampler, "draw", full)
    stepper = Stepper(_runner("qwen3"))
    stepper.add(GenerationRequest((5, 6), GREEDY))
    with pytest.raises(OutOfMemory, match="smaller --max-context"):
        stepper.step()


def test_a_step_that_fails_inside_a_layer_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(CONFIGS["qwen3"]())
    arrange(model, "int8", device="cpu", dtype=torch.float32)
    runner = Runner(model, device="cpu", stop_ids=frozenset({STOP}))
    runner.allocate(256)
    products = [part for part in model.modules() if isinstance(part, Product)]
    found = []

    def full(gate: torch.Tensor) -> torch.Tensor:
        found.extend(one._input for one in products if one._outputs)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    stepper = Stepper(runner)
    stepper.add(GenerationRequest((5, 6), GREEDY))
    # Between the two projections that are one product.
    with monkeypatch.context() as failing:
        failing.setattr(model.model.layers[1].mlp.act_fn, "forward", full)
        with pytest.raises(OutOfMemory):
            stepper.step()
    assert len(found) == 1
    assert all(one._input is None and not one._outputs for one in products)


def test_weights_that_do_not_fit_are_counted_as_they_lie_there() -> None:
    """Quantized ones are no parameters."""
    model = random_model(CONFIGS["qwen3"]())
    arrange(model, "int8", device="cpu", dtype=torch.float32)
    held = held_by(model)
    assert held > 1.5 * sum(p.numel() * p.element_size() for p in model.parameters())

    def full(device: str) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate "
                           "memory")  # fmt: skip

    model.to = full
    with pytest.raises(StartError, match=rf"weights \({held / 2**30:.1f} GiB\) do not fit on cpu"):
        Runner(model, device="cpu", stop_ids=frozenset())


@pytest.mark.parametrize("tokens", [2**40, 2**50])
def test_a_cache_that_a_cpu_has_no_memory_for(tokens: int) -> None:
    runner = Runner(random_model(CONFIGS["qwen3"]()), device="cpu", stop_ids=frozenset())
    with pytest.raises(StartError, match=f"cache of {tokens} tokens .* smaller --kv-memory"):
        runner.allocate(tokens)


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_configurations_tell_of_the_cache_is_what_it_takes(kind: str) -> None:
    told = expected_kv_token(CONFIGS[kind](), torch.float32)
    assert told == _runner(kind).bytes_per_token
