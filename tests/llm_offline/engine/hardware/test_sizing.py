"""Room on cards of several sizes, for Llama-3.2-3B's shape; the driver's figures are faked."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import Gemma2Config, LlamaConfig

from llm_offline.engine.hardware.device import memory
from llm_offline.engine.hardware.sizing import StepMemory, cpu_room, gpu_room, kv_share, step_memory
from llm_offline.errors import StartError

GIB = 2**30
CONFIG = LlamaConfig(
    hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
    num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=True,
)  # fmt: skip
WEIGHTS = {"bf16": 6.0, "int8": 3.4, "int4": 2.2}
"""GiB, roughly."""
PER_TOKEN = 28 * 8 * 128 * 2 * 2
STEP = step_memory(CONFIG, tokens=1024, rows=16, fed=5, kv_heads=8, itemsize=2)


def _card(monkeypatch: pytest.MonkeyPatch, total: float, weights: str) -> dict[str, int]:
    """A card of `total` GiB with a context of CUDA, a desktop and the weights on it."""
    used = int(WEIGHTS[weights] * GIB)
    free = int(total * GIB) - used - int(0.6 * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, int(total * GIB)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: used)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: used)
    return memory(torch.device("cuda"))


def test_what_a_step_takes() -> None:
    assert 0.3 * GIB < STEP.fixed < 0.6 * GIB
    assert STEP.per_token < 0.1 * PER_TOKEN
    capped = Gemma2Config(hidden_size=3072, intermediate_size=8192, num_attention_heads=24,
                          num_key_value_heads=8, vocab_size=128256)  # fmt: skip
    more = step_memory(capped, tokens=1024, rows=16, fed=5, kv_heads=8, itemsize=2)
    assert more.per_token > 10 * STEP.per_token


@pytest.mark.parametrize(
    ("total", "weights", "least", "most"),
    [
        (8, "bf16", 3_000, 9_000),
        (8, "int8", 24_000, 36_000),
        (6, "int8", 10_000, 18_000),
        (6, "int4", 18_000, 28_000),
        (140, "bf16", 1_000_000, 1_300_000),
    ],
)
def test_tokens_by_card(
    total: float, weights: str, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _card(monkeypatch, total, weights)
    room = gpu_room("cuda", found, PER_TOKEN, STEP)
    assert least < room < most
    # Weights, cache and a step together are less than the card.
    taken = room * (PER_TOKEN + STEP.per_token) + STEP.fixed
    assert taken < found["free_bytes"]


def test_a_card_that_is_too_small_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _card(monkeypatch, 6, "bf16")
    found["free_bytes"] = max(found["free_bytes"], 0)
    with pytest.raises(StartError) as caught:
        gpu_room("cuda", found, PER_TOKEN, STEP)
    sentence = str(caught.value)
    assert re.match(r"cuda has 0\.00 of 6\.00 GiB free beside the model's weights", sentence)
    assert "--quantization" in sentence
    assert "\n" not in sentence


def test_kv_memory_is_what_was_asked_for_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _card(monkeypatch, 8, "int8")
    assert gpu_room("cuda", found, PER_TOKEN, STEP, 1.0) == GIB // PER_TOKEN
    with pytest.raises(StartError, match="--kv-memory 4 does not fit"):
        gpu_room("cuda", found, PER_TOKEN, STEP, 4.0)


def test_a_short_text_must_fit() -> None:
    step = StepMemory(fixed=GIB, per_token=0)
    with pytest.raises(StartError, match="no room for the keys and values"):
        gpu_room("cuda:1", {"free_bytes": GIB, "total_bytes": 8 * GIB}, PER_TOKEN, step)


def test_an_encoder_beside_it_leaves_less(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _card(monkeypatch, 8, "int8")
    alone, beside = (gpu_room("cuda", found, PER_TOKEN, STEP, beside=b) for b in (0, 2 * GIB))
    assert alone - beside == pytest.approx(2 * GIB / (PER_TOKEN + STEP.per_token), abs=1)
    with pytest.raises(StartError, match=r"and the 2\.00 GiB kept for --embedding-model, of which"):
        gpu_room("cuda", found, PER_TOKEN, STEP, 3.0, beside=2 * GIB)
    with pytest.raises(StartError, match="kept for --embedding-model, and a step takes"):
        gpu_room("cuda", found, PER_TOKEN, STEP, beside=5 * GIB)


def test_a_cpu_gives_half_of_what_is_free() -> None:
    assert cpu_room("cpu", 4 * GIB, 1024) == 2 * GIB // 1024
    assert kv_share("cpu") == kv_share("mps") == 0.5
    assert kv_share("cuda:1") > 0.5


def test_kv_memory_on_a_cpu_is_what_was_asked_for_or_refused() -> None:
    assert cpu_room("cpu", 4 * GIB, 1024, 3.5) == 3.5 * GIB // 1024
    with pytest.raises(StartError, match=r"--kv-memory 4\.5 does not fit: cpu has 4\.00 GiB free"):
        cpu_room("cpu", 4 * GIB, 1024, 4.5)
