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
from pathlib import Path

import httpx

from tests.llm_offline.processes import free_port, server

WORDS = "the fine for riding without a helmet is on page three of employees paid leave".split()
ANSWER = 64
PATIENCE = 180
# What `transformers serve` needs and this project does not, and nothing else:
# pip install --no-deps --target bench/peers/.serve accelerate==1.15.0
PEER = Path(__file__).parent / "peers" / ".serve"


def over_http(folder: Path, dtype: str, batches: Sequence[int], rounds: int) -> None:
    """Print tokens a second of both servers, all requests at once and at random times."""
    print("| requests | arrivals | transformers serve | llm_offline | ratio |")
    print("|---|---|---|---|---|")
    long = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[dtype]
    flags = ("--model", str(folder), "--dtype", dtype, "--max-batch", "64")
    threads = str(os.cpu_count() or 1)
    with (
        server(folder, *flags, OMP_NUM_THREADS=threads) as ours,
        _transformers_serve(folder, long) as theirs,
    ):
        ours.until_ready()
        urls = {"theirs": theirs, "ours": ours.url}
        for batch in batches:
            for spread in (0.0, 0.3):
                found: dict[str, list[float]] = {"theirs": [], "ours": []}
                for turn in range(rounds):
                    for name, url in urls.items():
                        rate = asyncio.run(_ask(url, str(folder), batch, spread, turn))
                        found[name].append(rate)
                best = {name: max(rates) for name, rates in found.items()}
                arrivals = "at once" if spread == 0 else "Poisson, mixed lengths"
                print(
                    f"| {batch} | {arrivals} | {best['theirs']:.1f} | {best['ours']:.1f} "
                    f"| {best['ours'] / best['theirs']:.2f} |",
                    flush=True,
                )


@contextmanager
def _transformers_serve(folder: Path, dtype: str) -> Iterator[str]:
    """`transformers serve` with its own continuous batching; its URL."""
    port = free_port()
    script = "from transformers.cli.transformers import main; main()"
    log = (folder / "transformers-serve.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-c", script, "serve", str(folder), "--continuous-batching",
         "--dtype", dtype, "--device", "auto", "--port", str(port), "--host", "127.0.0.1"],
        env=os.environ | {"PYTHONPATH": str(PEER)},
        stdout=log,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                    asyncio.run(_ask(url, str(folder), 1, 0.0, 0))
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        else:
            raise SystemExit(
                f"transformers serve did not start: {Path(log.name).read_text()[-2000:]}"
            )
        yield url
    finally:
        process.terminate()
        process.wait(30)
        log.close()


async def _ask(url: str, model: str, batch: int, spread: float, seed: int) -> float:
    """Tokens a second of `batch` requests that arrive `spread` seconds apart on average."""
    dice = random.Random(seed)
    async with httpx.AsyncClient(
        base_url=url, timeout=PATIENCE, limits=httpx.Limits(max_connections=batch)
    ) as client:
        began = time.perf_counter()
        asking = []
        at = 0.0
        for _ in range(batch):
            at += dice.expovariate(1 / spread) if spread else 0.0
            words, answer = (
                (dice.randint(20, 200), dice.randint(16, 96)) if spread else (100, ANSWER)
            )
            text = " ".join(dice.choice(WORDS) for _ in range(words))
            asking.append(_one(client, model, text, answer, at))
        tokens = await asyncio.gather(*asking)
        return sum(tokens) / (time.perf_counter() - began)


async def _one(client: httpx.AsyncClient, model: str, text: str, answer: int, at: float) -> int:
    """Stream one answer; its tokens: neither model ends by itself."""
    await asyncio.sleep(at)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": answer,
        "stream": True,
    }
    ended = False
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise RuntimeError(chunk["error"])
                ended |= any(choice.get("finish_reason") for choice in chunk["choices"])
    if not ended:
        raise RuntimeError("the stream ended without a reason")
    return answer
