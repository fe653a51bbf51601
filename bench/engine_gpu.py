"""How near the engine's decoding is to what a GPU's memory allows: `bench.engine gpu`.

At batch 1 every token reads all weights and the text's keys and values once, so tokens a second are
bounded by the memory's bandwidth, which a large copy measures first. Then every way to keep the
weights and to issue the kernels, at several batch sizes; prompts are read before the clock starts.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from llm_offline.engine.continuous import ContinuousBatching
from llm_offline.engine.interface import GenerationRequest
from llm_offline.engine.weights import held_by
from llm_offline.errors import StartError
from llm_offline.loaded import LoadedModel

WEIGHTS = ("none", "int8", "int4")
GRAPHS = ("compiled", "plain", "off")
NOT_MEASURED = "No CUDA GPU is here: the GPU part was not measured."

Load = Callable[..., LoadedModel]
Ask = Callable[[int, int, int], Sequence[GenerationRequest]]
"""Requests: how many, and the tokens of each prompt and answer."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured, and where: `copied` bytes, `prompt` and `answer` tokens."""

    device: str = "cuda"
    copied: int = 2**31
    batches: tuple[int, ...] = (1, 8, 32, 64)
    prompt: int = 256
    answer: int = 128


REHEARSAL = Extent("cpu", 2**24, (1, 2), 32, 8)


def measure(folder: Path, options: argparse.Namespace, load: Load, ask: Ask) -> None:
    """Print the bandwidth and the table."""
    extent = REHEARSAL if options.rehearse else Extent()
    bandwidth = copy_bandwidth(extent.device, extent.copied)
    if options.rehearse:
        print("A rehearsal on the CPU: the figures mean nothing.\n")
    else:
        print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n")
    print(f"A large copy reads and writes {bandwidth / 1e9:.0f} GB/s.\n")
    heads = " | ".join(f"batch {batch}" for batch in extent.batches)
    print(f"| weights | graphs | GiB | {heads} | share of the limit at batch 1 |")
    print("|" + "---|" * (len(extent.batches) + 4))
    for quantization, graphs in product(WEIGHTS, GRAPHS):
        print(_row(folder, load, ask, quantization, graphs, extent, bandwidth), flush=True)
        _forget(extent.device)


def copy_bandwidth(device: str, size: int) -> float:
    """Bytes a second that a copy of `size` bytes reads and writes, the best of several."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        _wait(device)
        began = time.perf_counter()
        target.copy_(source)
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size / best


def _row(
    folder: Path, load: Load, ask: Ask, quantization: str, graphs: str, extent: Extent,
    bandwidth: float,
) -> str:  # fmt: skip
    """One line of the table: a way to keep the weights, and one to issue the kernels."""
    try:
        model = load(
            folder, "bf16", device=extent.device, quantization=quantization, cuda_graphs=graphs,
            max_batch=max(extent.batches), max_context=2 * (extent.prompt + extent.answer),
        )  # fmt: skip
    except (StartError, ValidationError) as error:
        return f"| {quantization} | {graphs} | not measured: {' '.join(str(error).split())} |"
    rates = [
        max(_rate(model, ask(batch, extent.prompt, extent.answer)) for _ in range(2))
        for batch in extent.batches
    ]
    # On average half of the answer is there when a token is computed.
    cache = (extent.prompt + extent.answer / 2) * model.network.bytes_per_token
    limit = bandwidth / (weights_read(model.network._model) + cache)
    held = held_by(model.network._model) / 2**30
    how = f"{graphs} ({model.network.decoding or 'each row by itself'})"
    figures = " | ".join(f"{rate:.0f}" for rate in rates)
    return f"| {quantization} | {how} | {held:.2f} | {figures} | {rates[0] / limit:.2f} |"


def _rate(model: LoadedModel, requests: Sequence[GenerationRequest]) -> float:
    """Tokens a second, from when all have their first token."""

    async def work() -> float:
        engine = ContinuousBatching(
            model.network, model.text.decode, context=model.context, max_queue=len(requests),
            max_batch=len(requests), share_prefixes=False, guesser=None,
        )  # fmt: skip
        waiting = len(requests)
        began = 0.0
        before = 0
        said = dict.fromkeys(range(len(requests)), 0)

        async def one(number: int) -> None:
            nonlocal waiting, began, before
            async for delta in engine.generate(requests[number]):
                if not said[number]:
                    waiting -= 1
                said[number] = delta.completion_tokens
                if not waiting and not began:
                    began, before = time.perf_counter(), sum(said.values())

        await asyncio.gather(*(one(number) for number in range(len(requests))))
        seconds = time.perf_counter() - began
        produced = sum(said.values()) - before
        engine.stop()
        engine.join(10)
        return produced / seconds

    return asyncio.run(work())


def weights_read(network: Any) -> int:
    """Bytes of weights that one token reads: all but an embedding of which it reads one row."""
    inputs, outputs = network.get_input_embeddings(), network.get_output_embeddings()
    tied = getattr(outputs, "weight", None) is inputs.weight
    return held_by(network) - (0 if tied else inputs.weight.numel() * inputs.weight.itemsize)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _forget(device: str) -> None:
    """Room for the next model."""
    gc.collect()
    if device == "cuda":
        torch.compiler.reset()
        torch.cuda.empty_cache()
