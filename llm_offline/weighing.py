"""How much memory a model on the disk will take: from its configuration, nothing is read in."""

from __future__ import annotations

from typing import Any

import torch

from llm_offline.engine.device import DTYPES, choose_device, choose_dtype, memory
from llm_offline.errors import StartError
from llm_offline.fitting import KV_SHARE, Need
from llm_offline.hub import model_folder
from llm_offline.loading import (
    check_files,
    longest_context,
    read_config,
    weight_files,
    weight_sizes,
)
from llm_offline.progress import Progress
from llm_offline.settings import Settings


def weigh(settings: Settings, progress: Progress) -> Need:
    """Find the model that the settings name, download it if need be, and estimate what it takes.

    Raises:
        StartError: One sentence about what is wrong with its name or its files.
    """
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    folder = model_folder(settings.model, progress, revision=settings.revision)
    progress.enter("checking the files")
    check_files(folder)
    whole = read_config(folder)
    sizes = {name: size.total for name, size in weight_sizes(whole, dtype, device).items()}
    config = whole.get_text_config()
    made_for = longest_context(settings, whole)
    context = settings.max_context or made_for
    kv_token = _kv_numbers(config) * DTYPES[dtype].itemsize
    wanted = settings.max_batch * context * kv_token
    if settings.kv_memory is not None:
        wanted = min(wanted, int(settings.kv_memory * 2**30))
    return Need(
        # Where no such model can be built, reading the weights will say it better.
        weights=sizes.get(settings.quantization)
        or sum(file.stat().st_size for file in weight_files(folder)),
        kv_token=kv_token,
        context=context,
        kv_wanted=wanted,
        kv_share=1.0 if settings.kv_memory is not None else KV_SHARE[device == "cpu"],
        free=memory(torch.device(device))["free_bytes"],
        device=device,
        by_quantization=sizes,
    )


def _kv_numbers(config: Any) -> int:
    """Numbers that a token adds to the KV cache, as configurations name them."""
    try:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // (
            config.num_attention_heads
        )
        return int(2 * config.num_hidden_layers * heads * width)
    except AttributeError as error:
        raise StartError(
            f"models of type {config.model_type!r} do not work with this server: their "
            "configuration tells of no attention heads"
        ) from error
