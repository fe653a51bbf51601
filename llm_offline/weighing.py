"""A model on the disk, and how much memory it will take: from its configuration, unread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from llm_offline.checkpoint import check_files, read_config
from llm_offline.encoder_room import encoder_bytes
from llm_offline.engine.hardware.device import DTYPES, choose_device, choose_dtype, memory
from llm_offline.engine.hardware.sizing import kv_share
from llm_offline.engine.weights.arranging import WeightBytes, weight_bytes
from llm_offline.errors import StartError
from llm_offline.fitting import Need
from llm_offline.hub import model_folder
from llm_offline.limits import longest_context
from llm_offline.progress import Progress
from llm_offline.settings import Settings

_model_class: Any = AutoModelForCausalLM  # untyped


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that was found whole, and what it would take.

    Attributes:
        folder: Its files.
        files: Those of its weights.
        config: Its configuration, of transformers.
        device: Where it would compute.
        dtype: What it would compute in: bf16, fp16 or fp32.
        sizes: What its weights take by quantization; empty where no such model can be built, which
            reading the weights will then say better.
        need: All that it would take.
    """

    folder: Path
    files: list[Path]
    config: Any
    device: str
    dtype: str
    sizes: dict[str, WeightBytes]
    need: Need


def weigh(settings: Settings, progress: Progress, *, encoder: bool = True) -> Need:
    """What the model that the settings name will take; see `find`."""
    return find(settings, progress, encoder=encoder).need


def find(settings: Settings, progress: Progress, *, encoder: bool = True) -> Candidate:
    """Find the model that the settings name, download it if need be, and estimate what it takes.

    Args:
        settings: See there.
        progress: Told of a download.
        encoder: Whether the encoder that the settings name is still to come to the device.

    Raises:
        StartError: One sentence about what is wrong with its name or its files.
    """
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    folder = model_folder(
        settings.model, progress, revision=settings.revision, allow_pickle=settings.allow_pickle
    )
    progress.enter("checking the files")
    weights = check_files(folder, allow_pickle=settings.allow_pickle)
    config = read_config(folder, weights.tensors)
    made_for = longest_context(settings, config)
    context = settings.max_context or made_for
    kv_token = expected_kv_token(config, DTYPES[dtype])
    asked = int((settings.kv_memory or 0) * 2**30)
    wanted = settings.max_batch * context * kv_token
    sizes = weight_sizes(config, dtype, device)
    beside = encoder_bytes(settings, device) if encoder else 0
    totals = {name: size.total for name, size in sizes.items()}
    need = Need(
        # Where no such model can be built, reading the weights will say it better.
        weights=totals.get(settings.quantization)
        or sum(file.stat().st_size for file in weights.files),
        kv_token=kv_token,
        context=context,
        kv_wanted=min(wanted, asked) if asked else wanted,
        kv_share=1.0 if asked else kv_share(device),
        free=memory(torch.device(device))["free_bytes"] - beside,
        device=device,
        by_quantization=totals,
        kv_asked=asked,
        beside=beside,
    )
    return Candidate(folder, weights.files, config, device, dtype, sizes, need)


def weight_sizes(config: Any, dtype: str, device: str) -> dict[str, WeightBytes]:
    """What the weights take, by quantization: from a model without numbers. See `Candidate`."""
    try:
        with torch.device("meta"):
            skeleton = _model_class.from_config(
                config, dtype=DTYPES[dtype], trust_remote_code=False
            )
    except (ValueError, RuntimeError, KeyError, AttributeError, TypeError, ImportError):
        return {}
    names = ("none", "int8", "int4")
    return {name: weight_bytes(skeleton, name, DTYPES[dtype], device) for name in names}


def expected_kv_token(config: Any, dtype: torch.dtype) -> int:
    """Bytes that a token will take in the KV cache, as configurations tell.

    Once the network is there it is measured (`Runner.bytes_per_token`), whatever it says of itself.

    Raises:
        StartError: The configuration tells of no attention.
    """
    text = config.get_text_config()
    try:
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return int(2 * text.num_hidden_layers * heads * width) * dtype.itemsize
    except AttributeError as error:
        raise StartError(
            f"models of type {text.model_type!r} do not work with this server: their "
            "configuration tells of no attention heads"
        ) from error
