"""The HTTP section of `bench.engine`: two real servers, the same requests, in turns."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from transformers import GenerationConfig

from bench.environments import PEERS, packages_of
from tests.llm_offline.processes import free_port, server

WORDS = "the fine for riding without a helmet is on page three of employees paid leave".split()
ANSWER = 64
WORDS_ASKED = 164
"""In the tokens of a small tokenizer and with the template, about 256."""
MIXED = 24
RATES = (1.0, 2.0, 4.0)
"""Requests a second: 56, 112 and 224 tokens a second."""
PATIENCE = 180


class PeerFailed(RuntimeError):
    """`transformers serve` does not run here: one sentence, for whoever reads the tables."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, as its client saw it: seconds from the request to its first text and its end."""

    tokens: int
    first: float
    whole: float


@dataclass(slots=True)
class Seen:
    """All answers of one server to one load, over all rounds."""

    answers: list[Answer] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def quantile(self, what: str, share: float) -> float:
        """In seconds."""
        values = sorted(getattr(answer, what) for answer in self.answers)
        return float(values[min(len(values) - 1, int(share * len(values)))])


def over_http(folder: Path, dtype: str, batches: Sequence[int], rounds: int) -> None:
    """Print both servers' tokens a second, and their latencies with requests at random times."""
    _draw_by_default(folder)
    flags = ("--model", str(folder), "--dtype", dtype, "--max-batch", "64")
    threads = str(os.cpu_count() or 1)
    with (
        server(folder, *flags, OMP_NUM_THREADS=threads) as ours,
        _transformers_serve(folder, dtype) as theirs,
    ):
        ours.until_ready()
        urls = {"theirs": theirs, "ours": ours.url}
        print("| requests at once | transformers serve, tokens/s | llm_offline | ratio |")
        print("|---|---|---|---|")
        for batch in batches:
            found = _taking_turns(
                urls, str(folder), [_at_once(batch, turn) for turn in range(rounds)]
            )
            best = {name: max(seen.rates) for name, seen in found.items()}
            print(
                f"| {batch} | {best['theirs']:.1f} | {best['ours']:.1f} "
                f"| {best['ours'] / best['theirs']:.2f} |",
                flush=True,
            )
        print("\nRequests of mixed lengths at random times; seconds, p50 and p95\n")
        print(
            "| requests a second | transformers serve, first text | llm_offline | p95's ratio "
            "| transformers serve, whole answer | llm_offline | p95's ratio |"
        )
        print("|---|---|---|---|---|---|---|")
        for rate in RATES:
            loads = [_poisson(rate, turn) for turn in range(rounds)]
            found = _taking_turns(urls, str(folder), loads)
            cells = [f"{rate:g}"]
            for what in ("first", "whole"):
                slow = {name: seen.quantile(what, 0.95) for name, seen in found.items()}
                for name in urls:
                    cells.append(f"{found[name].quantile(what, 0.5):.2f}, {slow[name]:.2f}")
                cells.append(f"{slow['theirs'] / slow['ours']:.1f}")
            print(f"| {' | '.join(cells)} |", flush=True)


def _draw_by_default(folder: Path) -> None:
    """Make `transformers serve` draw tokens too, from the whole vocabulary, as it was asked to.

    Without this in the model's own settings it says nothing and takes the most likely token.
    """
    config = GenerationConfig.from_pretrained(folder)
    config.do_sample, config.temperature, config.top_k, config.top_p = True, 1.0, 0, 1.0
    config.save_pretrained(folder)


Load = list[tuple[float, str, int]]
"""Each request: seconds after which it comes, its question, the tokens of its answer."""


def _at_once(count: int, turn: int = 0) -> Load:
    # No two loads begin alike: nothing but the template's beginning is found in a prefix cache.
    dice = random.Random(f"{count} at once, {turn}")
    return [(0.0, _words(dice, WORDS_ASKED), ANSWER) for _ in range(count)]


def _poisson(rate: float, turn: int) -> Load:
    """Questions of 20 to 200 words and answers of 16 to 96 tokens, `rate` a second."""
    dice, at, load = random.Random(f"{rate} a second, {turn}"), 0.0, Load()
    for _ in range(MIXED):
        at += dice.expovariate(rate)
        load.append((at, _words(dice, dice.randint(20, 200)), dice.randint(16, 96)))
    return load


def _words(dice: random.Random, count: int) -> str:
    return " ".join(dice.choice(WORDS) for _ in range(count))


def _taking_turns(urls: dict[str, str], model: str, loads: Sequence[Load]) -> dict[str, Seen]:
    found = {name: Seen() for name in urls}
    for load in loads:
        for name, url in urls.items():
            began = time.perf_counter()
            answers = asyncio.run(_ask(url, model, load))
            found[name].answers += answers
            took = time.perf_counter() - began
            found[name].rates.append(sum(answer.tokens for answer in answers) / took)
    return found


@contextmanager
def _transformers_serve(folder: Path, dtype: str) -> Iterator[str]:
    """`transformers serve` with its own continuous batching, once it answers; its URL."""
    with start_transformers_serve(folder, dtype) as (url, pid):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and psutil.pid_exists(pid):
            try:
                if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                    asyncio.run(_ask(url, str(folder), _at_once(1)))
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        else:
            log = (folder / "transformers-serve.log").read_text()
            raise PeerFailed(f"transformers serve did not start: {log[-2000:]}")
        yield url


@contextmanager
def start_transformers_serve(folder: Path, dtype: str) -> Iterator[tuple[str, int]]:
    """`transformers serve` as a process that has just begun: its URL and its id.

    Raises:
        PeerFailed: What it needs and this project does not cannot be had.
    """
    try:
        packages = packages_of(PEERS / "serve")
    except subprocess.CalledProcessError as error:
        raise PeerFailed(
            "transformers serve needs bench/peers/serve/requirements.txt, which pip could not get; "
            "run this again where a package index can be reached"
        ) from error
    long = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[dtype]
    port = free_port()
    script = "from transformers.cli.transformers import main; main()"
    log = (folder / "transformers-serve.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-c", script, "serve", str(folder), "--continuous-batching",
         "--dtype", long, "--device", "auto", "--port", str(port), "--host", "127.0.0.1"],
        env=os.environ | {"PYTHONPATH": str(packages)},
        stdout=log,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(30)
        log.close()


async def _ask(url: str, model: str, load: Load) -> list[Answer]:
    """All requests of a load, each when it is due."""
    limits = httpx.Limits(max_connections=len(load))
    # Reading certificates, for which there is no use here, would take part of what is measured.
    async with httpx.AsyncClient(
        base_url=url, timeout=PATIENCE, limits=limits, verify=False
    ) as client:
        return await asyncio.gather(*(_one(client, model, *request) for request in load))


async def _one(client: httpx.AsyncClient, model: str, at: float, text: str, tokens: int) -> Answer:
    """Stream one answer; neither model ends by itself."""
    await asyncio.sleep(at)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 1,
        "max_tokens": tokens,
        "stream": True,
    }
    began, first, ended = time.perf_counter(), 0.0, False
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise RuntimeError(chunk["error"])
                if any(choice["delta"].get("content") for choice in chunk["choices"]):
                    first = first or time.perf_counter() - began
                ended |= any(choice.get("finish_reason") for choice in chunk["choices"])
    if not ended:
        raise RuntimeError("the stream ended without a reason")
    whole = time.perf_counter() - began
    return Answer(tokens, first or whole, whole)
