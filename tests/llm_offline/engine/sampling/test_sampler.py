"""The sampler against the distributions it should follow, and the library's processors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llm_offline.engine.interface import Sampling
from llm_offline.engine.sampling.penalties import Tally
from llm_offline.engine.sampling.sampler import Draw, draw, uniform


def _drawn(logits: torch.Tensor, sampling: Sampling, count: int, **more: Any) -> list[int]:
    rows = [Draw(sampling, 7, position, **more) for position in range(count)]
    return draw(logits.repeat(count, 1), rows).tolist()


def _fits(logits: torch.Tensor, sampling: Sampling, expected: torch.Tensor, **more: Any) -> None:
    """Chi-square at 99.9 %, over the tokens that may be drawn; the seed is fixed."""
    count = 6000
    found = torch.bincount(
        torch.tensor(_drawn(logits, sampling, count, **more)), minlength=logits.numel()
    ).double()
    assert set(found.nonzero()[:, 0].tolist()) <= set(expected.nonzero()[:, 0].tolist())
    wanted = expected.double() * count
    # The statistic is chi-square's where five or more are expected: rarer ones count together.
    rare = wanted < 5
    found = torch.cat([found[~rare], found[rare].sum()[None]])
    wanted = torch.cat([wanted[~rare], wanted[rare].sum()[None]])
    found, wanted = found[wanted > 0], wanted[wanted > 0]
    chi_square = float(((found - wanted) ** 2 / wanted).sum())
    freedom = len(wanted) - 1
    # Wilson and Hilferty's approximation of the quantile.
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert chi_square < limit


SMALL = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
WIDE = torch.randn(900, generator=torch.Generator().manual_seed(2)) * 1.5


@pytest.mark.parametrize("temperature", [0.5, 1, 2.0])
def test_it_follows_the_softmax(temperature: float) -> None:
    _fits(SMALL, Sampling(temperature), torch.softmax(SMALL / temperature, 0))


@pytest.mark.parametrize(
    "wishes",
    [
        {"top_k": 3},
        {"top_p": 0.8},
        {"min_p": 0.3},
        {"temperature": 1.5, "top_k": 4, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
def test_it_follows_the_librarys_processors(wishes: dict[str, Any]) -> None:
    _fits(SMALL, Sampling(**wishes), _library(SMALL, wishes))


@pytest.mark.parametrize(
    "wishes",
    [
        {"temperature": 1.0},
        {"temperature": 2.0, "min_p": 0.02},
        {"temperature": 0.6, "top_p": 0.9},
        {"temperature": 3.0, "top_p": 0.99},
        {"temperature": 1.3, "top_k": 60, "top_p": 0.97, "min_p": 0.01},
        {"temperature": 2.5, "top_k": 700, "top_p": 0.98},
    ],
    ids=str,
)
def test_it_follows_the_librarys_processors_in_a_wide_vocabulary(wishes: dict[str, Any]) -> None:
    _fits(WIDE, Sampling(**wishes), _library(WIDE, wishes))


def test_penalties_biases_and_masks_come_before_the_truncation() -> None:
    """The library's order: processors first, warpers after them."""
    prompt, said = (3, 5), tuple(WIDE.topk(4).indices.tolist())
    wishes: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
    allowed = torch.arange(WIDE.numel()) % 3 != 0
    penalised = RepetitionPenaltyLogitsProcessor(1.5)(
        torch.tensor([[*prompt, *said]]),  # type: ignore[arg-type]
        WIDE[None].clone(),  # type: ignore[arg-type]
    )[0]
    penalised[list(said)] -= 0.6
    penalised[7] += 2
    sampling = Sampling(
        **wishes,
        repetition_penalty=1.5,
        presence_penalty=0.4,
        frequency_penalty=0.2,
        logit_bias=((7, 2.0),),
    )
    expected = _library(penalised.masked_fill(~allowed, -torch.inf), wishes)
    _fits(WIDE, sampling, expected, tally=Tally(prompt, said), allowed=allowed)


@pytest.mark.parametrize(
    "wishes",
    [
        {"temperature": 0.7, "top_p": 0.95},
        {"temperature": 3.0, "top_p": 0.99},
        {"temperature": 3.0, "top_p": 0.98, "top_k": 700},
        {"temperature": 3.0, "min_p": 0.2},
        {"top_k": 20},
    ],
    ids=str,
)
def test_truncation_keeps_what_the_library_keeps(wishes: dict[str, Any]) -> None:
    """Also where a nucleus is larger than what is ordered at first."""
    kept = set(_library(WIDE, wishes).nonzero()[:, 0].tolist())
    drawn = set(_drawn(WIDE, Sampling(**wishes), 4000))
    assert drawn <= kept
    assert len(drawn) > 0.6 * min(len(kept), 500)


def _library(logits: torch.Tensor, wishes: dict[str, Any]) -> torch.Tensor:
    processors = LogitsProcessorList()
    processors.append(TemperatureLogitsWarper(float(wishes.get("temperature", 1.0))))
    if "top_k" in wishes:
        processors.append(TopKLogitsWarper(wishes["top_k"]))
    if "top_p" in wishes:
        processors.append(TopPLogitsWarper(wishes["top_p"]))
    if "min_p" in wishes:
        processors.append(MinPLogitsWarper(wishes["min_p"]))
    ids = torch.zeros(1, 1, dtype=torch.long)
    return torch.softmax(processors(ids, logits[None].clone())[0], -1)  # type: ignore[arg-type]


def test_temperature_zero_takes_the_best() -> None:
    best = {int(WIDE.argmax())}
    for greedy in (Sampling(0), Sampling(1e-9), Sampling(top_p=0), Sampling(top_k=1)):
        assert set(_drawn(WIDE, greedy, 5)) == best


def test_repetition_is_penalised_as_in_the_library() -> None:
    prompt, said = (3, 5, 5), (8, 9)
    processor = RepetitionPenaltyLogitsProcessor(1.7)
    wanted = processor(torch.tensor([[*prompt, *said]]), WIDE[None].clone())[0]  # type: ignore[arg-type]
    logits = WIDE[None].clone()
    row = Draw(Sampling(0, repetition_penalty=1.7), 0, 5, Tally(prompt, said))
    draw(logits, [row])
    assert torch.allclose(logits[0], wanted)


def test_presence_and_frequency_count_what_was_said() -> None:
    logits = torch.zeros(1, 6)
    row = Draw(
        Sampling(0, presence_penalty=0.5, frequency_penalty=0.25), 0, 9, Tally((0, 1), (1, 2, 2, 2))
    )
    draw(logits, [row])
    assert logits[0].tolist() == [0, -0.75, -1.25, 0, 0, 0]


def test_biases_and_masks() -> None:
    assert set(_drawn(SMALL, Sampling(logit_bias=((3, 100.0),)), 20)) == {3}
    allowed = torch.tensor([False, True, False, True, False])
    assert set(_drawn(SMALL, Sampling(), 300, allowed=allowed)) == {1, 3}
    assert set(_drawn(SMALL, Sampling(top_p=0.1), 20, allowed=allowed)) == {1}


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    kinds = [
        Sampling(0),
        Sampling(1.3),
        Sampling(0.8, top_p=0.9),
        Sampling(1.0, top_k=30, min_p=0.01),
        Sampling(2.5, top_p=0.999),
        Sampling(0.9, frequency_penalty=0.4),
    ]
    tally = Tally((1, 2), (3, 4, 4))
    rows = [Draw(kinds[n % len(kinds)], n * 31, n % 11, tally) for n in range(24)]
    logits = torch.randn(24, 900, generator=torch.Generator().manual_seed(3)) * 2
    together = draw(logits.clone(), rows).tolist()
    alone = [int(draw(logits[n : n + 1].clone(), [row])) for n, row in enumerate(rows)]
    assert together == alone
    backwards = draw(logits.flip(0), rows[::-1]).tolist()
    assert backwards[::-1] == together


@pytest.mark.parametrize(
    "wishes",
    [
        {"top_k": 40},
        {"top_k": 512},
        {"top_k": 600},
        {"top_p": 0.9},
        {"top_k": 50, "top_p": 0.95, "min_p": 0.001},
        {"top_k": 512, "top_p": 0.999},
    ],
    ids=str,
)
def test_equal_logits_are_told_apart_by_their_ids_whatever_else_is_drawn(
    wishes: dict[str, Any],
) -> None:
    """bf16 has few numbers, so many tokens are the last of a top_k; the neighbour's nucleus is
    most of its vocabulary.
    """
    noise = torch.Generator().manual_seed(11)
    flat = torch.randn(4000, generator=noise) * 0.01
    neighbour = Draw(Sampling(top_p=0.95), 5, 10)
    for number, width in enumerate((0.5, 1.0, 1.0, 2.0, 4.0)):
        logits = (torch.randn(4000, generator=noise) * width).bfloat16().float()
        rows = [Draw(Sampling(**wishes), seed, number) for seed in range(60)]
        alone = draw(logits.repeat(60, 1), rows).tolist()
        together = draw(torch.stack([flat, *logits.repeat(60, 1)]), [neighbour, *rows]).tolist()
        assert together[1:] == alone
        first = logits.sort(descending=True, stable=True).indices[: wishes.get("top_k", 4000)]
        assert set(alone) <= set(first.tolist())


@pytest.mark.parametrize("wishes", [{"top_k": 700}, {"top_p": 0.9}, {"top_k": 9}], ids=str)
def test_no_token_is_drawn_that_a_grammar_forbids(wishes: dict[str, Any]) -> None:
    allowed = torch.zeros(2000, dtype=torch.bool)
    allowed[5::100] = True
    drawn = _drawn(torch.zeros(2000), Sampling(**wishes), 400, allowed=allowed)
    first = allowed.nonzero()[: wishes.get("top_k"), 0].tolist()
    assert set(drawn) <= set(first)
    assert len(set(drawn)) >= 9


APPLE = torch.device("mps")


class OnApple(torch.Tensor):
    """A tensor that says it is on an Apple GPU, and refuses what one refuses: fp64."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return APPLE

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        found: torch.Tensor = super().__torch_function__(  # type: ignore[no-untyped-call]
            func, types, args, kwargs or {}
        )
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return found


class AppleGpu(TorchFunctionMode):
    """Makes and moves tensors there."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        wishes = dict(kwargs or {})
        there = wishes.get("device") == APPLE
        if there:
            del wishes["device"]
        if func is torch.Tensor.to and args[1] == APPLE:
            there, args = True, (args[0], "cpu")
        found: torch.Tensor = func(*args, **wishes)
        return found.as_subclass(OnApple) if there else found


def test_a_device_without_fp64_draws_the_same() -> None:
    rows = [
        Draw(sampling, seed, 3, Tally((1, 2), (3, 4)))
        for seed in range(5)
        for sampling in (
            Sampling(0),
            Sampling(1.2, min_p=0.01),
            Sampling(0.8, top_p=0.9, frequency_penalty=0.5, logit_bias=((5, 1.0),)),
            Sampling(1.0, top_k=30, repetition_penalty=1.1),
        )
    ]
    wanted = draw(WIDE.repeat(20, 1), rows)
    with AppleGpu():
        rows = [replace(row, tally=Tally((1, 2), (3, 4))) for row in rows]
        found = draw(WIDE.repeat(20, 1).as_subclass(OnApple), rows)
    assert found.device == APPLE
    assert found.tolist() == wanted.tolist()


def test_seeds_and_positions_give_other_noise() -> None:
    flat = torch.zeros(1, 900)

    def drawn(seed: int, position: int) -> int:
        return int(draw(flat.clone(), [Draw(Sampling(), seed, position)]))

    assert drawn(1, 2) == drawn(1, 2) == drawn(1 + 2**64, 2)
    assert len({drawn(seed, 2) for seed in range(-20, 20)}) > 30
    assert len({drawn(1, position) for position in range(40)}) > 30
    assert isinstance(drawn(-(2**80), 0), int)


def test_the_noise_is_uniform() -> None:
    noise = uniform(torch.arange(50)[:, None], torch.arange(2000).expand(50, -1))
    assert 0 < float(noise.min()) < 1e-4
    assert 1 - 1e-4 < float(noise.max()) < 1
    bins = torch.histc(noise, 64, 0, 1)
    wanted = noise.numel() / 64
    assert float(((bins - wanted) ** 2 / wanted).sum()) < 103.4  # 99.9 % of 63
    # Neighbours in either direction know nothing of each other.
    for shifted, rest in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])):
        pair = torch.stack([shifted.flatten(), rest.flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.015


def test_the_same_seed_and_another_wish_share_the_noise() -> None:
    """Truncation does not move the noise: a token that stays and won still wins."""
    whole = _drawn(WIDE, Sampling(seed=1), 400)
    cut = _drawn(WIDE, replace(Sampling(seed=1), top_k=200), 400)
    likely = set(WIDE.topk(200).indices.tolist())
    assert all(b == a for a, b in zip(whole, cut, strict=True) if a in likely)
