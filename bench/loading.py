"""A load generator that sees every token: `python -m bench.loading`, a Load as JSON on its input.

So many clients, each on a keep-alive connection of its own, each asking again as soon as it has its
answer. Runs as a process of its own, so that what it measures with is not what is measured; prints
a Seen as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import cast
from urllib.parse import urlsplit

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_CONTENT = re.compile(rb'"content": ?"((?: \d+\.\d+)+)"')
_END = b"0\r\n\r\n"
MERGED = 0.01
"""Seconds between the sending of two tokens from which on it is a fault to get them together."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked, by how many, for how long.

    Attributes:
        seconds: After which nobody asks again; 0 where `requests` counts.
        requests: All in all; 0 where `seconds` counts.
        tokens: Of each answer.
        stagger: Seconds over which the clients begin.
    """

    url: str
    clients: int
    tokens: int
    stream: bool = False
    seconds: float = 0.0
    requests: int = 0
    stagger: float = 0.0
    headers: tuple[str, ...] = ()


@dataclass(slots=True)
class Seen:
    """What was seen, in seconds; the first answer of each client is left out where there are more.

    Attributes:
        took: From the request to the last byte.
        first: From the request to the first token.
        delays: From a token's sending to its arrival; of streams alone.
        merged: Tokens that came together with one that was sent 10 ms earlier or more.
        errors: Heads of responses that were not 200, and what else went wrong; 5 at most.
    """

    took: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    merged: int = 0
    answers: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)
    wall: float = 0.0


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: Load, seen: Seen, until: float) -> None:
        """`until`: when it stops asking, by the clock of all processes."""
        self._load = load
        self._seen = seen
        self._until = until
        self._request = _request(load)
        self._answers = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Note what came; ask again when the answer is whole."""
        now = time.monotonic()
        self._held += data
        if self._load.stream:
            self._note_tokens(now)
        if self._is_whole():
            self._note_answer(now)
            if self._may_ask():
                self._ask()
            else:
                self._transport.close()
                self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that is closed in the middle is a failure, and the end of this client."""
        if not self.done.done():
            self._fail(f"the connection was closed: {exc}")
            self._finish()

    def _ask(self) -> None:
        self._held = bytearray()
        self._at = self._body = 0
        self._size: int | None = None
        self._tokens: list[tuple[float, float]] = []
        self._asked = time.monotonic()
        self._transport.write(self._request)

    def _may_ask(self) -> bool:
        if self._load.requests:
            return self._seen.answers + self._load.clients <= self._load.requests
        return time.monotonic() < self._until

    def _note_tokens(self, now: float) -> None:
        for found in _CONTENT.finditer(self._held, self._at):
            self._at = found.end()
            self._tokens += [(float(sent), now) for sent in found[1].split()]

    def _is_whole(self) -> bool:
        if not self._body:
            self._body = self._held.find(b"\r\n\r\n") + 4
            if self._body < 4:
                self._body = 0
                return False
            length = _LENGTH.search(self._held, 0, self._body)
            self._size = int(length[1]) if length else None
        if self._size is None:
            return self._held.endswith(_END)
        return len(self._held) >= self._body + self._size

    def _note_answer(self, now: float) -> None:
        seen, tokens = self._seen, self._tokens
        seen.answers += 1
        self._answers += 1
        complete = not self._load.stream or len(tokens) == self._load.tokens
        if not self._held.startswith(b"HTTP/1.1 200") or not complete:
            self._fail(bytes(self._held[:400]).decode("latin-1") + f" … {len(tokens)} tokens")
            return
        if self._answers == 1 and not self._load.requests and not self._load.stream:
            return
        seen.took.append(now - self._asked)
        if tokens:
            seen.first.append(tokens[0][1] - self._asked)
        seen.delays += [arrived - sent for sent, arrived in tokens]
        for (sent, arrived), (sent_next, arrived_next) in pairwise(tokens):
            seen.merged += sent_next - sent >= MERGED and arrived_next - arrived < 0.001

    def _fail(self, what: str) -> None:
        self._seen.failed += 1
        self._seen.errors = [*self._seen.errors, what][:5]

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


def _request(load: Load) -> bytes:
    question = "Which of the two routes takes longer at night, and by how much? " * 4
    body = {
        "model": "bench",
        "messages": [
            {"role": "system", "content": "You answer in one sentence."},
            {"role": "user", "content": question.strip()},
        ],
        "max_tokens": load.tokens,
        "stream": load.stream,
    }
    content = json.dumps(body).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: {urlsplit(load.url).netloc}",
        "content-type: application/json",
        "authorization: Bearer sk-bench",
        f"content-length: {len(content)}",
        *load.headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def generate(load: Load) -> Seen:
    """The whole load."""
    loop, seen, where = asyncio.get_running_loop(), Seen(), urlsplit(load.url)
    began = time.monotonic()
    until = began + load.seconds
    clients: list[Client] = []
    for number in range(load.clients):
        await asyncio.sleep(max(0, began + load.stagger * number / load.clients - time.monotonic()))
        _, client = await loop.create_connection(
            lambda: Client(load, seen, until), where.hostname, where.port
        )
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    seen.wall = time.monotonic() - began
    return seen


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    asked["headers"] = tuple(asked.get("headers", ()))
    print(json.dumps(asdict(uvloop.run(generate(Load(**asked))))))
