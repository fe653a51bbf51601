"""One way of `bench.engine_gpu`, in a process of its own: what is asked for as JSON, and what is
found as a line of JSON each.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import GenerationConfig, LlamaForCausalLM

from bench.engine_gpu import END, Extent
from bench.engine_models import GREEDY, aside, load, prompts
from llm_offline.engine.continuous import ContinuousBatching
from llm_offline.engine.interface import GenerationRequest
from llm_offline.engine.weights.arranging import held_by
from llm_offline.errors import LLMOfflineError, StartError
from llm_offline.loaded import LoadedModel

News = dict[str, Any]


def main() -> None:
    """Say what is found, as it is found."""
    # The engine logs why a way does not work here, and what takes its place.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    asked = json.loads(sys.argv[1])
    extent = Extent(**asked["extent"])
    folder = Path(asked["folder"])
    try:
        if asked["what"] == "bandwidth":
            _say(_bandwidth(extent))
            return
        ways = _generate(folder, extent) if asked["what"] == "generate" else _ours(
            folder, asked["weights"], asked["what"], extent
        )  # fmt: skip
        for news in ways:
            if "reads" in news:
                reads = news.pop("reads")
                if news["batch"] == "1" and asked["bandwidth"]:
                    news["share"] = news["rate"] * reads / asked["bandwidth"]
            _say(news)
    except Exception as error:  # noqa: BLE001 - `_reason` logs it
        # Whatever fails on a GPU that was never tried, its sentence is all that comes back of it.
        _say({"batch": "all", "why": _reason(error)})
    finally:
        _say(END)


def _say(news: News) -> None:
    print(json.dumps(news), flush=True)


def _reason(error: Exception) -> str:
    """One line of what went wrong; the rest goes to the log."""
    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"])
    if not isinstance(error, LLMOfflineError):
        logging.error("not measured", exc_info=error)
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _bandwidth(extent: Extent) -> News:
    """Bytes a second that a large copy reads and writes, the best of several."""
    size = extent.copied
    if extent.device == "cuda":
        size = min(size, torch.cuda.mem_get_info()[0] // 4)
    source = torch.zeros(size, dtype=torch.uint8, device=extent.device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        _wait(extent.device)
        began = time.perf_counter()
        target.copy_(source)
        _wait(extent.device)
        best = min(best, time.perf_counter() - began)
    name = torch.cuda.get_device_name() if extent.device == "cuda" else "CPU"
    return {"device": name, "bandwidth": 2 * size / best}


def _ours(folder: Path, weights: str, graphs: str, extent: Extent) -> Iterator[News]:
    """The engine at each batch size, with the bytes that a token at batch 1 reads."""
    began = time.perf_counter()
    model, most = _loaded(folder, weights, graphs, extent)
    network: Any = model.network
    yield {
        "how": network.decoding or "each row by itself",
        "gib": model.weights_bytes / 2**30,
        "seconds": time.perf_counter() - began,
    }
    reads = weights_read(network.model) + _cache_read(network.bytes_per_token, extent)
    for batch in extent.batches:
        wanted, room = batch * (extent.prompt + extent.answer), model.kv_tokens
        if batch > most or wanted > room:
            why = f"it takes {wanted} tokens of KV cache, and there is memory for {room}"
            yield {"batch": str(batch), "why": why}
            continue
        asked = [
            GenerationRequest(one, GREEDY, extent.answer)
            for one in prompts(batch, extent.prompt, batch)
        ]
        try:
            rate = max(_rate(model, asked) for _ in range(2))
        except Exception as error:  # noqa: BLE001 - see `main`
            yield {"batch": str(batch), "why": _reason(error)}
        else:
            yield {"batch": str(batch), "rate": rate, "reads": reads}


def _loaded(folder: Path, weights: str, graphs: str, extent: Extent) -> tuple[LoadedModel, int]:
    """The model, and how many it computes together: fewer where memory does not allow all."""
    *more, last = sorted({extent.batches[0], extent.batches[1], extent.batches[-1]}, reverse=True)
    options = {"device": extent.device, "quantization": weights, "cuda_graphs": graphs,
               "max_context": 2 * (extent.prompt + extent.answer)}  # fmt: skip
    for most in more:
        with suppress(StartError):
            return aside(load, folder, "bf16", max_batch=most, **options), most
    return aside(load, folder, "bf16", max_batch=last, **options), last


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

        try:
            await asyncio.gather(*(one(number) for number in range(len(requests))))
        finally:
            seconds = time.perf_counter() - began
            engine.stop()
            engine.join(10)
        return (sum(said.values()) - before) / seconds

    return asyncio.run(work())


def _generate(folder: Path, extent: Extent) -> Iterator[News]:
    """transformers' own `generate`, without what it takes to read the prompts."""
    began = time.perf_counter()
    peer: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    peer = peer.to(extent.device).eval()
    yield {
        "how": "transformers' generate",
        "gib": held_by(peer) / 2**30,
        "seconds": time.perf_counter() - began,
    }
    shape = peer.config
    size = shape.hidden_size // shape.num_attention_heads
    token = 2 * shape.num_hidden_layers * shape.num_key_value_heads * size * 2
    reads = weights_read(peer) + _cache_read(token, extent)
    for batch in extent.batches:
        ids = torch.tensor(prompts(batch, extent.prompt, batch), device=extent.device)
        try:
            _timed(peer, ids, 2, extent.device)
            first = _timed(peer, ids, 1, extent.device)
            seconds = _timed(peer, ids, extent.answer, extent.device) - first
        except Exception as error:  # noqa: BLE001 - see `main`
            yield {"batch": str(batch), "why": _reason(error)}
        else:
            rate = batch * (extent.answer - 1) / seconds
            yield {"batch": str(batch), "rate": rate, "reads": reads}


def _timed(peer: Any, ids: torch.Tensor, tokens: int, device: str) -> float:
    wishes = GenerationConfig(
        max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=5
    )
    _wait(device)
    began = time.perf_counter()
    with torch.inference_mode():
        peer.generate(ids, attention_mask=torch.ones_like(ids), generation_config=wishes)
    _wait(device)
    return time.perf_counter() - began


def weights_read(network: Any) -> int:
    """Bytes of weights that one token reads: all but an embedding of which it reads one row."""
    inputs, outputs = network.get_input_embeddings(), network.get_output_embeddings()
    tied = getattr(outputs, "weight", None) is inputs.weight
    return held_by(network) - (0 if tied else inputs.weight.numel() * inputs.weight.itemsize)


def _cache_read(token: int, extent: Extent) -> float:
    """Bytes of keys and values: on average half of the answer is there."""
    return (extent.prompt + extent.answer / 2) * token


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
