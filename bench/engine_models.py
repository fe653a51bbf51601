"""Models of random weights and requests for them, of which `bench.engine` and others make use."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llm_offline.engine.interface import Sampling
from llm_offline.loaded import LoadedModel
from llm_offline.loading import load_model
from llm_offline.progress import Progress
from llm_offline.settings import Settings
from tests.tiny_model import CHAT_TEMPLATE, small_tokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "10M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 8000},
    "100M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
             "num_attention_heads": 12, "num_key_value_heads": 4, "vocab_size": 16000},
    "3B": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
           "num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 128256,
           "tie_word_embeddings": True},
}  # fmt: skip
PROMPT, ANSWER = 256, 64
_MANY = 10**9
_DRAWN = 16_000_057  # a prime: no two rows begin at the same place
T = TypeVar("T")
GREEDY = Sampling(temperature=0)


def aside(work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """`work` in a thread of its own, which then ends, as the server's loading does.

    Each thread that calls torch keeps helpers of its own; more of them than cores, and GNU's
    OpenMP lets all of them sleep at each barrier, which would slow whatever is measured next.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments, **options).result()


def write_model(folder: Path, shape: str, *, sure: bool = False) -> Path:
    """A Llama of random weights that never ends a text.

    `sure`: every token names the next one by a wide margin. Of random weights two tokens are often
    so close that a step of another shape rounds to the other one, and no guess is right from there.
    """
    folder.mkdir()
    tokenizer = small_tokenizer(600, 8192, CHAT_TEMPLATE)
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        # The output's weights are made from the input's.
        **SHAPES[shape] | ({"tie_word_embeddings": False} if sure else {}),
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.bfloat16,
    )
    model = _made(config)
    with torch.no_grad():
        if sure:
            model.model.embed_tokens.weight.normal_()
            model.lm_head.weight.copy_(model.model.embed_tokens.weight.roll(1, 0))
        model.lm_head.weight[[1, 4]] = 0
    model.save_pretrained(folder)
    return folder


def _made(config: LlamaConfig) -> LlamaForCausalLM:
    """The network, on the CPU: what measures a GPU needs all of that one's memory."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        if sum(one.numel() for one in model.parameters()) < _MANY:
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.to_empty(device="cpu")
    model.tie_weights()
    # Billions of numbers take minutes to draw: some millions are repeated, each row otherwise.
    some = torch.randn(_DRAWN).mul_(config.initializer_range).bfloat16()
    with torch.no_grad():
        for one in model.parameters():
            flat = one.view(-1)
            for part in flat.split(_DRAWN) if one.ndim > 1 else ():
                part.copy_(some[: len(part)])
            if one.ndim == 1:
                one.fill_(1)
    return model


def load(folder: Path, dtype: str, **more: Any) -> LoadedModel:
    """The server's own way of loading."""
    settings = Settings(_env_file=None, model=str(folder), dtype=dtype, **more)  # type: ignore[call-arg]
    return load_model(settings, Progress())


def prompts(count: int, length: int, seed: int) -> list[tuple[int, ...]]:
    """Random tokens of the tokenizer's own."""
    dice = random.Random(seed)
    return [tuple(dice.randrange(10, 500) for _ in range(length)) for _ in range(count)]
