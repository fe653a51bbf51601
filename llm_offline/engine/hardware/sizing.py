"""How many tokens of KV cache a device has room for, beside weights and what a step needs.

A CPU's memory is shared with everything else, so it gives half of what is free. A GPU is there for
the model, and is used up to what a step takes for itself, which must be kept free from the start:
running out later fails a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_offline.errors import StartError

LEAST_CONTEXT = 64
"""Tokens; fewer answer no question."""

_GIB = 2**30
_CPU_SHARE, _GPU_SHARE = 0.5, 0.8
# Kept free: the allocator's splinters, and what a desktop on the same GPU comes to want.
_MARGIN = 0.03
_LEAST_MARGIN = 192 * 2**20
# CUDA graphs and the libraries' own work spaces. An estimate: no GPU was at hand.
_GRAPHS = 160 * 2**20
# Of a layer's numbers for each token of a step, what is alive at the same time.
_HIDDEN, _INNER = 8, 3
# Drawing: for each number of a row's logits, copies and noise of up to 64 bits.
_DRAWING = 64
_SCORES = 12  # bytes a score, of models that torch's own attention does not compute


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes that a step takes besides weights and KV cache.

    Attributes:
        fixed: However long the texts are.
        per_token: For each token of the longest text that may be read.
    """

    fixed: int
    per_token: int


def kv_share(device: str) -> float:
    """How much of the memory beside the weights keys and values take at most.

    Of a GPU this is about what `gpu_room` comes to, told before anything is on it.
    """
    return _GPU_SHARE if device.startswith("cuda") else _CPU_SHARE


def cpu_room(device: str, free: int, bytes_per_token: int, kv_memory: float | None = None) -> int:
    """Tokens of KV cache for which there is memory that is shared with everything else.

    Args:
        device: Its name, for errors.
        free: Bytes, once the weights are there.
        bytes_per_token: Of the KV cache.
        kv_memory: GiB that were asked for; None is a share of what is free.

    Raises:
        StartError: There is less than what was asked for.
    """
    if kv_memory is None:
        return int(free * kv_share(device) / bytes_per_token)
    if kv_memory * _GIB > free:
        raise StartError(
            f"--kv-memory {kv_memory:g} does not fit: {device} has {free / _GIB:.2f} GiB free "
            "beside the model's weights"
        )
    return int(kv_memory * _GIB / bytes_per_token)


def step_memory(
    config: Any, *, tokens: int, rows: int, fed: int, kv_heads: int, itemsize: int
) -> StepMemory:
    """An upper bound from a model's configuration.

    Args:
        config: The text model's, of transformers.
        tokens: Of the largest step, all of one prompt.
        rows: Whose next token is drawn in a step, at most.
        fed: Tokens of each of them whose logits are computed, at most.
        kv_heads: Of a layer.
        itemsize: Bytes of a number.
    """
    hidden, vocabulary = config.hidden_size, config.vocab_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    layer = tokens * itemsize * (_HIDDEN * hidden + _INNER * inner)
    heads = config.num_attention_heads
    mask = tokens * (1 + heads // kv_heads * (1 + itemsize))
    scores = tokens * heads * _SCORES if getattr(config, "attn_logit_softcapping", None) else 0
    # Computed, then kept where the next step finds it.
    logits = rows * vocabulary * (_DRAWING + 2 * fed * itemsize)
    return StepMemory(layer + logits + _GRAPHS, mask + scores)


def gpu_room(
    device: str,
    memory: Mapping[str, int],
    bytes_per_token: int,
    step: StepMemory,
    kv_memory: float | None = None,
    beside: int = 0,
) -> int:
    """Tokens of KV cache for which a GPU has memory, once the weights are on it.

    Args:
        device: Its name, for errors.
        memory: As `device.memory` tells it.
        bytes_per_token: Of the KV cache.
        step: What a step takes.
        kv_memory: GiB that were asked for; None is all there is.
        beside: Bytes that something else will need there: an encoder.

    Raises:
        StartError: There is no room for a short text, or not for what was asked for.
    """
    free, total = memory["free_bytes"] - beside, memory["total_bytes"]
    encoder = f" and the {beside / _GIB:.2f} GiB kept for --embedding-model" if beside else ""
    kept = step.fixed + max(_LEAST_MARGIN, int(total * _MARGIN))
    room = (free - kept) // (bytes_per_token + step.per_token)
    if room < LEAST_CONTEXT:
        raise StartError(
            f"{device} has {free / _GIB:.2f} of {total / _GIB:.2f} GiB free beside the model's "
            f"weights{encoder}, and a step takes {kept / _GIB:.2f} GiB: there is no room for the "
            "keys and values of a text; close what else uses the GPU, or choose --quantization "
            "or a smaller model"
        )
    if kv_memory is None:
        return int(room)
    asked = int(kv_memory * _GIB / bytes_per_token)
    if asked > room:
        raise StartError(
            f"--kv-memory {kv_memory:g} does not fit: {device} has {free / _GIB:.2f} of "
            f"{total / _GIB:.2f} GiB free beside the model's weights{encoder}, of which keys and "
            f"values can have {room * bytes_per_token / _GIB:.2f}"
        )
    return asked
