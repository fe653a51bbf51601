"""`/v1/embeddings` over real sockets, whose every answer a test can script.

with EmbeddingsServer() as server:
    server.script(Answer(429, headers={"retry-after-ms": "5"}))
    ...                              # point a client at server.url
    assert len(server.asked) == 2    # bodies, in order of arrival
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import numpy as np

DIMENSION = 16


@dataclass(frozen=True)
class Answer:
    """How one request is answered.

    Attributes:
        status, headers: As sent. With 400 or more, `message` and `code` make the error object.
        change: Applied to the right answer's body, which it may change or replace.
        raw: Sent in place of any JSON.
        cut: The connection is closed without an answer.
        stall: Wait for `server.release` first.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "It failed."
    code: str | None = None
    change: Callable[[dict[str, Any]], Any] = lambda body: body
    raw: str | None = None
    cut: bool = False
    stall: bool = False


class EmbeddingsServer:
    """The server; a context manager. Scripted answers come first, then `default`."""

    def __init__(self) -> None:
        self.default = Answer()
        self.models = ["tiny-chat", "tiny-embedder"]
        self.as_floats = False
        self.longest: int | None = None
        """Characters past which a text is refused as too long."""
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.release = threading.Event()
        self.most_at_once = 0
        self._at_once = 0
        self._script: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def script(self, *answers: Answer) -> None:
        self._script.extend(answers)

    def until_asked(self, times: int) -> None:
        """Block until so many requests have arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= times, 60)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[Answer, Any]:
        """What to send for a request: (how, JSON)."""
        with self._changed:
            self.asked.append(body)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            how = self._script.popleft() if self._script else self.default
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self._changed.notify_all()
        if how.stall:
            self.release.wait(10)
        with self._changed:
            self._at_once -= 1
        texts = body["input"]
        if self.longest is not None and any(len(text) > self.longest for text in texts):
            how = Answer(400, message="maximum context length", code="context_length_exceeded")
        if any(not text.strip() for text in texts):
            how = Answer(400, message="input has an empty text")
        if how.status >= 400:
            return how, {"error": {"message": how.message, "type": "x", "code": how.code}}
        rows = [
            {"object": "embedding", "index": n, "embedding": self._row(t)}
            for n, t in enumerate(texts)
        ]
        return how, how.change(
            {"object": "list", "data": rows, "model": "tiny-embedder", "usage": {}}
        )

    def _row(self, text: str) -> Any:
        row = vector(text)
        return row.tolist() if self.as_floats else base64.b64encode(row.tobytes()).decode()


def vector(text: str) -> Any:
    """The server's vector of a text, float32, not of unit length: bags of words, hashed."""
    row = np.full(DIMENSION, 0.01, dtype="<f4")
    for word in text.lower().strip("?.!").split():
        row[hashlib.sha256(word.strip("?.,").encode()).digest()[0] % DIMENSION] += 3
    return row


def _handler(server: EmbeddingsServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            rows = [{"id": name, "object": "model"} for name in server.models]
            self._send(200, {}, json.dumps({"object": "list", "data": rows}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            how, answer = server.answer(body, self.headers)
            if how.cut:
                self.close_connection = True
                self.connection.close()
                return
            self._send(
                how.status, how.headers, how.raw if how.raw is not None else json.dumps(answer)
            )

        def _send(self, status: int, headers: Mapping[str, str], text: str) -> None:
            content = text.encode()
            self.send_response(status)
            fields = {"content-type": "application/json", "content-length": str(len(content))}
            for name, value in (fields | dict(headers)).items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(content)
            except ConnectionError:
                self.close_connection = True

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, ValueError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
