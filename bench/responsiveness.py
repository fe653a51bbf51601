"""Do requests stay quick while files are taken in?

    python bench/responsiveness.py [--files 2000] [--senders 4] [--seconds 180]

Starts a real backend with the embedded encoder and the extractive provider, and asks /health, a
search and a question (answered without a model) in turns: first while it has nothing else to do,
then while another process uploads and attaches the files over several connections and the backend
indexes them. Prints p50, p95 and the slowest of each, and the most memory that was in use.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

_IDLE_SECONDS = 15.0
_BETWEEN = 0.05
"""Seconds between two requests of one kind."""
_SEEDED = 100
"""Files that are there before anything is measured."""
_WORDS = (
    "harbour invoice garden pump notice annual leave contract depot valve market bridge lantern "
    "kitchen signal report meeting budget castle river engine window paper station ticket office "
    "storage cold temperature truck driver licence speed payment quarter holiday manager branch"
).split()


@dataclass
class Latencies:
    """Milliseconds of each kind of request."""

    of: dict[str, list[float]] = field(default_factory=dict)

    def add(self, kind: str, seconds: float) -> None:
        """One request took so long."""
        self.of.setdefault(kind, []).append(seconds * 1000)


def document(number: int) -> bytes:
    """A page or so of text, another one for every number."""
    made = random.Random(number)
    parts = [f"# Note {number}\n"]
    for _ in range(made.randint(2, 5)):
        sentences = (
            " ".join(made.choice(_WORDS) for _ in range(made.randint(8, 16))).capitalize() + "."
            for _ in range(made.randint(3, 6))
        )
        parts.append(" ".join(sentences) + "\n")
    return "\n".join(parts).encode()


def send(url: str, numbers: range, senders: int) -> None:
    """Upload and attach documents, over so many connections."""

    def one(number: int) -> None:
        name = f"note{number}.md"
        sent = client.post("/v1/files", files={"file": (name, document(number))})
        sent.raise_for_status()
        body = {"file_id": sent.json()["id"], "attributes": {"path": name}}
        client.post("/v1/vector_stores/default/files", json=body).raise_for_status()

    with httpx.Client(base_url=url, timeout=300) as client, ThreadPoolExecutor(senders) as pool:
        for _ in pool.map(one, numbers):
            pass


def measure(url: str, seconds: float, until: Callable[[], bool]) -> Latencies:
    """Ask all kinds of things at once until the time is over or the condition holds."""
    found = Latencies()
    stop = threading.Event()

    def ask(kind: str, path: str, body: Mapping[str, object] | None) -> None:
        with httpx.Client(base_url=url, timeout=300) as client:
            while not stop.is_set():
                start = time.perf_counter()
                answer = client.post(path, json=body) if body else client.get(path)
                found.add(kind, time.perf_counter() - start)
                answer.raise_for_status()
                stop.wait(_BETWEEN)

    query = "Who pays the invoice of the depot?"
    chat = {"model": "extractive", "messages": [{"role": "user", "content": query}]}
    asked = (
        ("/health", "/health", None),
        ("search", "/v1/vector_stores/default/search", {"query": query}),
        ("chat", "/v1/chat/completions", chat),
    )
    threads = [threading.Thread(target=ask, args=each) for each in asked]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not until():
        stop.wait(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    return found


class Memory:
    """The most memory that a process had, alone and with its readers, in MiB."""

    def __init__(self, process: int) -> None:
        self._process = psutil.Process(process)
        self.alone = self.together = 0.0

    def look(self) -> None:
        """Note what it has now."""
        mine = self._process.memory_info().rss / 2**20
        readers = 0.0
        for child in self._process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                readers += child.memory_info().rss / 2**20
        self.alone = max(self.alone, mine)
        self.together = max(self.together, mine + readers)


@contextlib.contextmanager
def backend(folder: Path) -> Iterator[tuple[str, int]]:
    """A backend over `folder` that is ready: its URL and its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {
        "DATA_DIR": str(folder / "data"),
        "LLM_PROVIDER": "extractive",
        "PYTHONPATH": str(root),
    }
    command = [sys.executable, "-m", "rag_backend.main", "--port", str(port)]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        url = f"http://127.0.0.1:{port}"
        while not _ready(url):
            if process.poll() is not None:
                raise SystemExit((folder / "log.txt").read_text())
            time.sleep(0.2)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return bool(httpx.get(f"{url}/health", timeout=5).json()["status"] == "ok")
    return False


def pending(url: str) -> int:
    """Files that are not indexed yet."""
    return int(httpx.get(f"{url}/health", timeout=300).json()["pending_files"])


def run(files: int, senders: int, seconds: float) -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder, backend(Path(folder)) as (url, process):
        send(url, range(_SEEDED), senders)
        while pending(url):
            time.sleep(0.2)
        memory = Memory(process)
        memory.look()
        before = memory.alone
        idle = measure(url, _IDLE_SECONDS, lambda: False)
        numbers = range(_SEEDED, _SEEDED + files)
        sender = multiprocessing.Process(target=send, args=(url, numbers, senders))
        start = time.monotonic()
        sender.start()

        def done() -> bool:
            memory.look()
            return not sender.is_alive() and not pending(url)

        busy = measure(url, seconds, done)
        took = time.monotonic() - start
        left = pending(url)
        sender.join()
        _print(idle, busy)
        print(
            f"\n{files - left} of {files} files taken in in {took:.0f} s "
            f"({(files - left) / took:.1f} files/s); memory {before:.0f} MiB before, at most "
            f"{memory.alone:.0f} MiB, with its readers {memory.together:.0f} MiB"
        )


def _print(idle: Latencies, busy: Latencies) -> None:
    print(f"{'ms':<10}{'':>8}{'p50':>9}{'p95':>9}{'max':>9}{'requests':>10}")
    for kind in idle.of:
        for name, found in (("idle", idle), ("busy", busy)):
            times = sorted(found.of[kind])
            p95 = times[int(0.95 * (len(times) - 1))]
            row = f"{statistics.median(times):>9.1f}{p95:>9.1f}{times[-1]:>9.1f}{len(times):>10}"
            print(f"{kind:<10}{name:>8}{row}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--senders", type=int, default=4, help="upload connections")
    parser.add_argument("--seconds", type=float, default=180, help="longest busy measurement")
    options = parser.parse_args()
    run(options.files, options.senders, options.seconds)


if __name__ == "__main__":
    main()
