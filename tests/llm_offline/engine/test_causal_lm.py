"""Decoding against transformers' own, and the sampler against its distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    Qwen3Config,
)

from llm_offline.engine import causal_lm
from llm_offline.engine.causal_lm import CausalLM, choose_device, choose_dtype, draw
from llm_offline.engine.interface import Sampling
from llm_offline.errors import GenerationFailed, OutOfMemory, StartError

PROMPTS = (
    [5, 300, 301],
    list(range(100, 190)),
    [400 + number * 7 % 150 for number in range(130)],
)


@pytest.fixture(scope="module")
def reference(tiny_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)


def _greedy(model: CausalLM, prompt: list[int], count: int) -> list[int]:
    decoding = model.start(prompt, Sampling(temperature=0))
    tokens: list[int] = []
    while len(tokens) < count:
        token = decoding.advance()
        if token is not None:
            tokens.append(token)
            if token in model.stop_ids:
                break
    return tokens


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
@pytest.mark.parametrize("piece", [32, 256])
def test_greedy_is_token_for_token_what_generate_gives(
    reference: Any, prompt: list[int], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_lm, "_PREFILL_CPU", piece)
    model = CausalLM(reference, device="cpu", stop_ids=frozenset({1, 4}))
    ids = torch.tensor([prompt])
    expected = reference.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(
            max_new_tokens=48, do_sample=False, eos_token_id=[1, 4], pad_token_id=5
        ),
    )[0, len(prompt) :].tolist()
    assert _greedy(model, prompt, 48) == expected


def _drawn(logits: torch.Tensor, sampling: Sampling, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return [draw(logits, sampling, generator) for _ in range(count)]


def test_temperature_zero_takes_the_best() -> None:
    logits = torch.randn(100, generator=torch.Generator().manual_seed(1))
    assert set(_drawn(logits, Sampling(temperature=0), 5)) == {int(logits.argmax())}
    assert set(_drawn(logits, Sampling(temperature=1e-9), 5)) == {int(logits.argmax())}
    assert set(_drawn(logits, Sampling(top_p=0), 5)) == {int(logits.argmax())}


@pytest.mark.parametrize("temperature", [0.5, 1, 2.0])
def test_the_sampler_follows_the_softmax(temperature: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    count = 4000
    found = torch.bincount(
        torch.tensor(_drawn(logits, Sampling(temperature), count)), minlength=5
    ).double()
    expected = torch.softmax(logits.double() / temperature, 0) * count
    chi_square = float(((found - expected) ** 2 / expected).sum())
    assert chi_square < 18.5  # 99.9 % of 4 degrees of freedom; the seed is fixed


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.log(torch.tensor([0.1, 0.5, 0.05, 0.35]))
    assert set(_drawn(logits, Sampling(top_p=0.4), 300)) == {1}
    assert set(_drawn(logits, Sampling(top_p=0.6), 300)) == {1, 3}
    assert set(_drawn(logits, Sampling(top_p=0.9), 300)) == {0, 1, 3}
    assert set(_drawn(logits, Sampling(top_p=1.0), 600)) == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", [0, -1, 7, 2**80])
def test_the_same_seed_gives_the_same_tokens(reference: Any, seed: int) -> None:
    model = CausalLM(reference, device="cpu", stop_ids=frozenset())

    def tokens(with_seed: int | None) -> list[int | None]:
        decoding = model.start([5, 300], Sampling(seed=with_seed))
        return [decoding.advance() for _ in range(12)]

    assert tokens(seed) == tokens(seed)
    assert tokens(seed) != tokens(seed + 1)
    assert tokens(None) != tokens(None)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_fail_the_request(bad: float) -> None:
    with pytest.raises(GenerationFailed, match="not numbers"):
        draw(torch.tensor([0.0, bad]), Sampling(), torch.Generator())


def test_running_out_of_memory_is_told_apart(reference: Any) -> None:
    class Full:
        config = reference.config

        def to(self, device: str) -> Full:
            return self

        def eval(self) -> Full:
            return self

        def __call__(self, **inputs: object) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model = CausalLM(Full(), device="cpu", stop_ids=frozenset())
    with pytest.raises(OutOfMemory, match="smaller --max-context"):
        model.start([1], Sampling()).advance()


def test_a_device_that_is_not_there() -> None:
    if not torch.cuda.is_available():
        assert choose_device("auto") == "cpu"
        with pytest.raises(StartError, match="use --device cpu"):
            choose_device("cuda")


def test_dtype_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_dtype("fp16", "cpu") == "fp16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert choose_dtype("auto", "cpu") == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert choose_dtype("auto", "cpu") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert choose_dtype("auto", "cuda") == "fp16"


@pytest.mark.parametrize("kind", ["llama with tied weights", "qwen3", "gemma3 with a window"])
def test_greedy_on_other_architectures(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = {
        "llama with tied weights": lambda: LlamaConfig(**shape, tie_word_embeddings=True),
        "qwen3": lambda: Qwen3Config(**shape),
        "gemma3 with a window": lambda: Gemma3TextConfig(**shape, sliding_window=32),
    }[kind]()
    monkeypatch.setattr(causal_lm, "_PREFILL_CPU", 16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(config).eval()
        prompt = torch.randint(3, 300, (1, 100))
    expected = network.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=32, do_sample=False
    )[0, 100:].tolist()
    model = CausalLM(network, device="cpu", stop_ids=frozenset({2}))
    assert _greedy(model, prompt[0].tolist(), 32) == expected
