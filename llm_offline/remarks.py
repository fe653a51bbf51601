"""What the start says of a model: a phrase a line."""

from __future__ import annotations

from collections.abc import Mapping

from llm_offline.engine.weights.arranging import WeightBytes
from llm_offline.limits import Limits
from llm_offline.loaded import LoadedModel


def remarks(
    model: LoadedModel,
    limits: Limits,
    *,
    sizes: Mapping[str, WeightBytes],
    slow: str | None,
    decoding: str | None,
    most_rows: int,
    template: str,
    seconds: float,
) -> tuple[str, ...]:
    """Weights, KV cache, context, and how many requests of full length fit.

    Args:
        model: Loaded.
        limits: What it works with.
        sizes: Of its weights, by quantization; may be empty.
        slow: Why quantized weights save no time on its device, if they do not.
        decoding: How steps of fixed shape run, if they do.
        most_rows: Requests that may run together.
        template: Where the chat template comes from, or why there is none.
        seconds: That loading took.
    """
    return (
        *weight_remarks(model.quantization, sizes, model.dtype, slow),
        f"KV cache {_amount(model.kv_bytes)}",
        f"context {limits.context} tokens ({limits.because})",
        f"{limits.tokens / limits.context:.1f} requests of full length fit; up to {most_rows} run "
        "together",
        *([f"decoding by {decoding}"] if decoding else []),
        f"chat template: {template}",
        f"loaded in {seconds:.1f} s on {model.device} in {model.dtype}",
    )


def weight_remarks(
    quantization: str, sizes: Mapping[str, WeightBytes], dtype: str, slow: str | None
) -> list[str]:
    """What the weights take, what of them is quantized, and what that does not save (`slow`)."""
    if not sizes:
        return []
    size = sizes[quantization]
    kind = dtype if quantization == "none" else f"{quantization} and {dtype}"
    told = [f"weights {size.total / 2**30:.2f} GiB ({kind})"]
    if quantization == "none":
        return told
    told[0] += (
        f": {size.numbers / size.of:.0%} of the weights quantized; output layer, embeddings and "
        f"norms stay in {dtype}"
    )
    if slow is not None:
        told.append(
            f"{quantization} saves memory only, and time not: {slow}, so the weights are written "
            "out in each step"
        )
    return told


def _amount(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"
