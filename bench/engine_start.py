"""The start section of `bench.engine`: from nothing to the first token, and the memory it takes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from bench.engine_http import PeerFailed, start_transformers_serve
from tests.llm_offline.processes import server

PATIENCE = 300


class Peak:
    """The most memory that a process and its children have held, in MiB; looks every 20 ms."""

    def __init__(self, pid: int) -> None:
        self.most = 0.0
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Look no more; the most that was seen."""
        self._over.set()
        self._thread.join()
        return self.most

    def _look(self) -> None:
        while not self._over.wait(0.02):
            try:
                family = [self._process, *self._process.children(recursive=True)]
                now = sum(one.memory_info().rss for one in family) / 2**20
            except psutil.NoSuchProcess:
                continue
            self.most = max(self.most, now)


def start(folder: Path, dtype: str, rounds: int) -> None:
    """Print the seconds to the first token and the peak of memory, of both servers in turns."""
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**20
    seconds: dict[str, list[float]] = {"transformers serve": [], "llm_offline": []}
    peaks: dict[str, list[float]] = {name: [] for name in seconds}
    for _ in range(rounds):
        for name, started in (
            ("transformers serve", start_transformers_serve),
            ("llm_offline", _ours),
        ):
            began = time.perf_counter()
            with started(folder, dtype) as (url, pid):
                peak = Peak(pid)
                _first_token(url, str(folder))
                seconds[name].append(time.perf_counter() - began)
                peaks[name].append(peak.stop())
    print(f"Weights on disk: {weights:.0f} MiB in {dtype}\n")
    print("| server | process start to first token, s | peak memory, MiB |")
    print("|---|---|---|")
    for name in seconds:
        print(f"| {name} | {min(seconds[name]):.1f} | {min(peaks[name]):.0f} |")


@contextmanager
def _ours(folder: Path, dtype: str) -> Iterator[tuple[str, int]]:
    flags = ("--model", str(folder), "--dtype", dtype, "--kv-memory", "0.25")
    threads = str(os.cpu_count() or 1)
    with server(folder, *flags, OMP_NUM_THREADS=threads) as running:
        yield running.url, running.process.pid


def _first_token(url: str, model: str) -> None:
    """Ask until somebody answers."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "How much is it?"}],
        "max_tokens": 8,
        "stream": True,
    }
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if _answered(url, body):
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise PeerFailed(f"{url} does not answer")


def _answered(url: str, body: object) -> bool:
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=PATIENCE) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:]).get("choices") or []
                # What random weights say may have no text.
                if any(c["delta"].get("content") or c.get("finish_reason") for c in choices):
                    return True
    return False
