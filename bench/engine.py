"""How fast the model server's engine is, on the GPU or CPU that is there.

    python -m bench.engine                     # a Llama of 100M parameters, all sections, CPU
    python -m bench.engine throughput --dtypes bf16 --rounds 3
    python -m bench.engine gpu --out gpu.json  # Llama-3.2-3B's shape, on a CUDA GPU; 8 minutes
    python -m bench.engine gpu --rehearse      # that every line of it runs, on a CPU

Random weights are written to disk and loaded as a user's are. Every figure stands beside its peer
from the same run, and the two take turns. Sections: `throughput` (tokens a second against
`model.generate` of the same batch), `http` (against `transformers serve --continuous-batching`),
`prefix` (time to first token with and without the prefix cache), `speculation` (guesses that are
right 70 % of the time, and prompts with nothing to copy), `start` (to the first token, and memory)
and `gpu` (`bench.engine_gpu`: how near decoding is to the memory's bandwidth, in 16, 8 and 4 bits,
with and without CUDA graphs, and `generate` beside it).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaForCausalLM

from bench import engine_gpu
from bench.engine_http import PeerFailed, over_http
from bench.engine_models import ANSWER, GREEDY, PROMPT, SHAPES, aside, load, prompts, write_model
from bench.engine_start import start
from llm_offline.engine.continuous import ContinuousBatching
from llm_offline.engine.hardware.device import DTYPES, choose_device
from llm_offline.engine.interface import GenerationRequest, Sampling
from llm_offline.engine.speculation import NewGuesser, PromptLookup
from llm_offline.loaded import LoadedModel


def main() -> None:
    """Measure what is asked for, and print one table a section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    sections = {
        "throughput": throughput,
        "http": http,
        "prefix": prefix,
        "speculation": guesses,
        "start": starting,
        "gpu": gpu,
    }
    parser.add_argument("sections", nargs="*", help=f"{', '.join(sections)}; none is all")
    parser.add_argument("--shape", choices=SHAPES, help="100M; for the GPU part 3B")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bf16", "fp32"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rehearse", action="store_true", help="run the GPU part on the CPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="most that the GPU part takes")
    parser.add_argument("--out", type=Path, help="where the GPU part writes its figures, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sections or sections:
            if name == "gpu" and not (torch.cuda.is_available() or options.rehearse):
                print(f"\n## gpu\n\n{engine_gpu.NOT_MEASURED}")
                continue
            usual = ("10M" if options.rehearse else "3B") if name == "gpu" else "100M"
            shape = options.shape or usual
            print(f"\n## {name}: {shape}, {choose_device('auto')}\n", flush=True)
            model = Path(folder) / shape
            if not model.is_dir():
                aside(write_model, model, shape)
            try:
                sections[name](model, options)
            except PeerFailed as error:
                print(f"Not measured: {error}", flush=True)


async def answer(
    engine: ContinuousBatching, requests: Sequence[GenerationRequest]
) -> tuple[int, list[float]]:
    """All at once: tokens produced, and each one's seconds to its first token."""
    began = time.perf_counter()

    async def one(request: GenerationRequest) -> tuple[int, float]:
        first, produced = 0.0, 0
        async for delta in engine.generate(request):
            first = first or time.perf_counter() - began
            produced = delta.completion_tokens
        return produced, first

    found = await asyncio.gather(*(one(request) for request in requests))
    return sum(tokens for tokens, _ in found), [first for _, first in found]


def run(
    model: LoadedModel,
    requests: Sequence[GenerationRequest],
    *,
    warm: Sequence[GenerationRequest] = (),
    share: bool = False,
    guesser: NewGuesser | None = None,
) -> tuple[float, float]:
    """Tokens a second, and the median time to first token, on a fresh engine."""

    async def work() -> tuple[float, float]:
        engine = ContinuousBatching(
            model.network,
            model.text.decode,
            context=model.context,
            max_queue=64,
            max_batch=64,
            share_prefixes=share,
            guesser=guesser,
        )
        if warm:
            await answer(engine, warm)
        began = time.perf_counter()
        tokens, firsts = await answer(engine, requests)
        seconds = time.perf_counter() - began
        engine.stop()
        engine.join(10)
        return tokens / seconds, statistics.median(firsts)

    return asyncio.run(work())


def throughput(folder: Path, options: argparse.Namespace) -> None:
    """Tokens a second against `generate` of the same batch, and 8 bits beside it on a CPU."""
    print("| dtype | batch | generate | engine | ratio | int8 | ratio |")
    print("|---|---|---|---|---|---|---|")
    for dtype in options.dtypes:
        peer = aside(_peer, folder, dtype)
        engine = aside(load, folder, dtype)
        small = aside(load, folder, dtype, quantization="int8") if engine.device == "cpu" else None
        for batch in options.batches:
            found: dict[str, list[float]] = {"generate": [], "engine": [], "int8": []}
            for turn in range(options.rounds):
                asked = prompts(batch, PROMPT, turn)
                requests = [GenerationRequest(prompt, GREEDY, ANSWER) for prompt in asked]
                found["generate"].append(aside(_generate, peer, asked))
                found["engine"].append(run(engine, requests)[0])
                if small is not None:
                    found["int8"].append(run(small, requests)[0])
            best = {name: max(rates, default=0.0) for name, rates in found.items()}
            base = best["generate"]
            print(
                f"| {dtype} | {batch} | {base:.1f} | {best['engine']:.1f} "
                f"| {best['engine'] / base:.2f} | {best['int8']:.1f} | {best['int8'] / base:.2f} |",
                flush=True,
            )


def _peer(folder: Path, dtype: str) -> Any:
    peer = LlamaForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype])
    return peer.to(choose_device("auto")).eval()


def _generate(peer: Any, asked: Sequence[tuple[int, ...]]) -> float:
    ids = torch.tensor(asked, device=peer.device)
    wishes = GenerationConfig(
        max_new_tokens=ANSWER, min_new_tokens=ANSWER, do_sample=False, pad_token_id=5
    )
    began = time.perf_counter()
    with torch.inference_mode():
        said = peer.generate(ids, attention_mask=torch.ones_like(ids), generation_config=wishes)
    return (said.shape[1] - PROMPT) * len(asked) / (time.perf_counter() - began)


def http(folder: Path, options: argparse.Namespace) -> None:
    """Through HTTP, against `transformers serve --continuous-batching`."""
    over_http(folder, options.dtypes[0], options.batches, options.rounds)


def starting(folder: Path, options: argparse.Namespace) -> None:
    """From the start of a process to its first token, and the memory that it takes."""
    start(folder, options.dtypes[0], options.rounds)


def gpu(folder: Path, options: argparse.Namespace) -> None:
    """Near the memory's bandwidth? See `bench.engine_gpu`."""
    engine_gpu.measure(folder, options)


def prefix(folder: Path, options: argparse.Namespace) -> None:
    """Sixteen requests with 1,500 tokens in common: milliseconds to the first token."""
    model = aside(load, folder, options.dtypes[0])
    shared = prompts(1, 1500, 99)[0]
    asked = [GenerationRequest((*shared, *own), GREEDY, 8) for own in prompts(16, 48, 7)]
    warm = [GenerationRequest((*shared, *prompts(1, 48, 8)[0]), GREEDY, 1)]
    found: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(options.rounds):
        for share in found:
            found[share].append(run(model, asked, warm=warm, share=share)[1] * 1000)
    without, cached = min(found[False]), min(found[True])
    print("| without | with the cache | ratio |")
    print("|---|---|---|")
    print(f"| {without:.0f} ms | {cached:.0f} ms | {without / cached:.1f} |")


class Oracle:
    """Guesses four tokens, each right with a given chance, from the text as it will be."""

    def __init__(self, text: Sequence[int], chance: float) -> None:
        self._text = list(text)
        self._chance = chance
        self._at = 0
        self._dice = random.Random(0)
        self.guessed = self.right = 0

    def guess(self, rows: int) -> list[int]:
        """See `speculation.Guesser`."""
        coming = self._text[self._at : self._at + 4]
        return [token if self._dice.random() < self._chance else 7 for token in coming]

    def judge(self, guessed: int, right: int) -> None:
        """See `speculation.Guesser`."""
        self.guessed += min(guessed, right + 1)  # the first wrong one ends a draft
        self.right += right

    def extend(self, tokens: Sequence[int]) -> None:
        """See `speculation.Guesser`."""
        self._at += len(tokens)


def guesses(folder: Path, options: argparse.Namespace) -> None:
    """One request at a time: guesses right 70 % of the time, and nothing to guess from."""
    sure = aside(write_model, folder.with_name("sure"), folder.name, sure=True)
    model, certain = (aside(load, where, options.dtypes[0]) for where in (folder, sure))
    prompt = prompts(1, PROMPT, 3)[0]
    greedy = GenerationRequest(prompt, GREEDY, ANSWER * 2)
    text, oracles = _tokens(certain, greedy), list[Oracle]()

    def oracle(_: Sequence[int]) -> Oracle:
        oracles.append(Oracle(text, 0.7))
        return oracles[-1]

    # Sampled from all of a random model's tokens: no two alike, so that nothing can be copied.
    varied = GenerationRequest(prompt, Sampling(temperature=1.0, seed=1), ANSWER * 2)
    cases: dict[str, tuple[LoadedModel, GenerationRequest, Callable[[Sequence[int]], Any]]] = {
        "70 % right": (certain, greedy, oracle),
        "nothing to copy": (model, varied, PromptLookup),
    }
    print("| case | without | with guesses | ratio |")
    print("|---|---|---|---|")
    for name, (network, request, guesser) in cases.items():
        found: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(options.rounds):
            for guessing in found:
                rate, _ = run(network, [request], guesser=guesser if guessing else None)
                found[guessing].append(rate)
        without, guessed = max(found[False]), max(found[True])
        print(f"| {name} | {without:.1f} | {guessed:.1f} | {guessed / without:.2f} |", flush=True)
    right = sum(one.right for one in oracles) / max(1, sum(one.guessed for one in oracles))
    print(f"\nRight among the guesses that were tried: {right:.0%}")


def _tokens(model: LoadedModel, request: GenerationRequest) -> list[int]:
    """What the model says, as token ids."""

    async def work() -> list[int]:
        engine = ContinuousBatching(
            model.network,
            model.text.decode,
            context=model.context,
            max_queue=1,
            max_batch=1,
            guesser=None,
        )
        asked = GenerationRequest(request.prompt, Sampling(temperature=0, logprobs=0), ANSWER * 2)
        said = [one.token async for delta in engine.generate(asked) for one in delta.logprobs]
        engine.stop()
        engine.join(10)
        return said

    return asyncio.run(work())


if __name__ == "__main__":
    main()
