"""Tiny random models of several architectures, and what `generate` makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 300
STOP = 2

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": STOP,
    "pad_token_id": 0,
}
_WIDE = _SHAPE | {"head_dim": 16}

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama, tied weights": lambda: LlamaConfig(**_SHAPE, tie_word_embeddings=True),
    "llama 3 rope": lambda: LlamaConfig(
        **_SHAPE,
        rope_scaling={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "qwen2": lambda: Qwen2Config(**_SHAPE),
    "qwen3": lambda: Qwen3Config(**_WIDE),
    "mistral, a window": lambda: MistralConfig(**_SHAPE, sliding_window=32),
    "gemma2, capped scores": lambda: Gemma2Config(**_WIDE, sliding_window=32),
    "gemma3, a window": lambda: Gemma3TextConfig(**_WIDE, sliding_window=32),
    "phi3": lambda: Phi3Config(**_SHAPE),
}


def random_model(config: Any, seed: int = 0) -> Any:
    """A model of random weights in fp32."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def generated(model: Any, prompt: Sequence[int], count: int, **more: Any) -> list[int]:
    """What transformers says after `prompt`, greedily: at most `count` tokens.

    `more` goes to its `GenerationConfig`.
    """
    ids = torch.tensor([list(prompt)])
    wishes = GenerationConfig(
        max_new_tokens=count, do_sample=False, eos_token_id=STOP, pad_token_id=0, **more
    )
    mask = torch.ones_like(ids)
    said = model.generate(input_ids=ids, attention_mask=mask, generation_config=wishes)
    tokens: list[int] = said[0, len(prompt) :].tolist()
    return tokens
