"""How fast a repeated question is answered, through a real backend over HTTP.

    python -m bench.cache                  # with Debian's redis-server: Redis too

One backend process on one core, one load generator on another, keep-alive connections, each client
asking again as soon as it has its answer. The peers in the same run: `/health` (the floor of our
HTTP stack for a parsed route) and the same question with `Cache-Control: no-store` (the whole way,
answered without a model). Prints p50 and p95 in milliseconds and requests per second.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from tests.e2e.backend import EXAMPLES, BackendProcess, backend, ingest
from tests.rag_backend.llm.cache.redis_server import RedisServer

SECONDS = 3.0
CLIENTS = (1, 10)
BODY = {"messages": [{"role": "user", "content": "How much is the lunch allowance?"}]}


class Row(NamedTuple):
    """Latencies in milliseconds."""

    p50: float
    p95: float
    per_second: float


class Client(asyncio.Protocol):
    """Sends the same request again and again on one connection; as little Python as possible."""

    def __init__(self, request: bytes, until: float) -> None:
        self.took: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._until = until
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Ask again when the answer is whole."""
        self._held += data
        head, blank, body = self._held.partition(b"\r\n\r\n")
        if not blank or len(body) < int(head.lower().split(b"content-length:")[1].split(b"\r")[0]):
            return
        now = time.perf_counter()
        self.took.append(1000 * (now - self._asked))
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(head.decode()))
        elif now >= self._until:
            self._transport.close()
            self.done.set_result(None)
        else:
            self._ask()

    def _ask(self) -> None:
        self._held = b""
        self._asked = time.perf_counter()
        self._transport.write(self._request)


async def load(url: str, request: bytes, clients: int) -> Row:
    """So many clients for `SECONDS`, the first tenth of the answers left out."""
    where, loop = urlsplit(url), asyncio.get_running_loop()
    until = time.perf_counter() + SECONDS
    made = [Client(request, until) for _ in range(clients)]
    for client in made:
        await loop.create_connection(lambda c=client: c, where.hostname, where.port)
    await asyncio.gather(*(client.done for client in made))
    took = sorted(t for client in made for t in client.took[len(client.took) // 10 :])
    return Row(
        statistics.median(took),
        took[int(0.95 * len(took))],
        sum(len(client.took) for client in made) / SECONDS,
    )


def request(url: str, path: str, body: object = None, *headers: str) -> bytes:
    """One HTTP/1.1 request as bytes."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        f"host: {urlsplit(url).netloc}",
        "content-type: application/json",
        f"content-length: {len(content)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


@contextmanager
def filled(folder: Path, cache_url: str) -> Iterator[BackendProcess]:
    """A backend on the first core, with the examples, that has answered the question once."""
    with backend(folder, CACHE_URL=cache_url) as running:
        done = ingest(str(EXAMPLES), "--url", running.url, folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(running.process.pid, cores[:1])
        for body in (BODY, BODY | {"stream": True}) * 3:
            httpx.post(f"{running.url}/v1/chat/completions", json=body).raise_for_status()
        yield running


def measure(name: str, running: BackendProcess) -> None:
    """All rows of one backend."""
    chat, url = "/v1/chat/completions", running.url
    rows = {
        "GET /health": request(url, "/health"),
        "hit": request(url, chat, BODY),
        "hit, streamed": request(url, chat, BODY | {"stream": True}),
        "no-store": request(url, chat, BODY, "cache-control: no-store"),
    }
    for label, sent in rows.items():
        for clients in CLIENTS:
            row = asyncio.run(load(url, sent, clients))
            print(
                f"{name:<8} {label:<14} {clients:>3} clients  p50 {row.p50:7.3f} ms  "
                f"p95 {row.p95:7.3f} ms  {row.per_second:7.0f}/s",
                flush=True,
            )


def main() -> None:
    """Memory, then Redis where there is one."""
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        backings = {"memory": "memory://"}
        if shutil.which("redis-server"):
            backings["redis"] = stack.enter_context(RedisServer(folder)).url
        for name, url in backings.items():
            with filled(folder / name, url) as running:
                os.sched_setaffinity(0, cores[-1:])
                measure(name, running)
            os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main()
