"""A server of OpenAI's shape over real sockets, whose every answer a test can script.

    with OpenAIServer() as server:
        server.script(Reply.error(429, headers={"retry-after": "1"}), Reply("Thirty days [1]."))
        ...                                    # point a client at server.url
        assert len(server.chats) == 2          # what arrived, in order
        assert server.chats[0].disconnected.wait(5)

(An async test waits with `await asyncio.to_thread(...disconnected.wait, 5)`, or the client in its
own event loop never gets to close anything.)

It runs in a thread with an event loop of its own, so it serves the test's own process as well as
processes that the test starts. Scripted replies answer chat completions one after the other; when
they are used up, `server.default` answers. A stalled reply waits until the client goes away, the
test calls `server.release()`, or the server closes: no test has to sleep.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

Place = Literal["headers", "first_token", "middle", "end"]
"""Before the status line, before the first piece, after the first piece, before `finish_reason`."""

MODEL = "tiny-upstream"


@dataclass(frozen=True)
class Reply:
    """How one chat completion is answered, plain or streamed as the request asks.

    Attributes:
        text: The answer; streamed word by word.
        status, headers: As sent. A status of 400 or more sends `failure` as the error object.
        failure: OpenAI's error object; with status 200, an error event at `fail_at` of a stream.
        fail_at: Where in a stream the error event comes.
        stall: Where the answer stops; for `seconds`, or without end when that is None.
        cut: Where the socket is closed hard.
        finish_reason: None: the stream ends without any, as when an upstream dies politely.
        done: Whether `data: [DONE]` ends the stream.
        raw: Sent as the whole body in place of a completion (garbage, an HTML page).
        content_type: Of `raw`.
        garbage: A stream's second event is not JSON.
        comments: Keep-alive comments sent before the first piece.
        tool_calls: OpenAI's tool calls, streamed in two parts each; the text is then left out.
        drip: After the first piece, another one every so many seconds, without end.
        logprobs: Put into each choice of a stream, to see that such fields survive.
    """

    text: str = "Employees have twelve days of annual leave [1]."
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    failure: Mapping[str, Any] | None = None
    fail_at: Place = "middle"
    stall: Place | None = None
    seconds: float | None = None
    cut: Place | None = None
    finish_reason: str | None = "stop"
    done: bool = True
    raw: str | None = None
    content_type: str = "application/json"
    garbage: bool = False
    comments: int = 0
    drip: float | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    logprobs: Mapping[str, Any] | None = None

    @classmethod
    def error(
        cls,
        status: int,
        message: str = "The upstream failed.",
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "server_error",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """An error response of OpenAI's shape."""
        failure = {"message": message, "type": kind, "param": param, "code": code}
        return cls(status=status, failure=failure, headers=headers or {})

    @classmethod
    def html(cls, status: int = 200) -> Reply:
        """A web page where JSON should be: a wrong URL, a proxy's login page."""
        page = "<!doctype html><html><body><h1>Router login</h1></body></html>"
        return cls(status=status, raw=page, content_type="text/html; charset=utf-8")


@dataclass
class Received:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    disconnected: threading.Event = field(default_factory=threading.Event)
    """Set when the client closed the connection before the answer was complete."""
    finished: threading.Event = field(default_factory=threading.Event)
    """Set when the server is done with the request, however it ended."""


class _Cut(Exception):
    """The script says that the socket closes here."""


class OpenAIServer:
    """The server; a context manager. `port=0` takes a free port."""

    def __init__(self, port: int = 0, *, dimensions: int = 8) -> None:
        self.default = Reply()
        self.models: list[str] = [MODEL]
        self.models_raw: tuple[int, str] | None = None
        """Status and body of `/v1/models` in place of the list."""
        self.health: tuple[int, Mapping[str, Any]] = (200, {"status": "ok"})
        self.dimensions = dimensions
        self.requests: list[Received] = []
        self._port = port
        self._script: deque[Reply] = deque()
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop
        self._released = asyncio.Event()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="openai-server", daemon=True)
        self._ready = threading.Event()

    # What a test calls.

    @property
    def url(self) -> str:
        """Base URL without a path."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def chats(self) -> list[Received]:
        """The chat completions asked for so far."""
        return [r for r in list(self.requests) if r.path.endswith("/chat/completions")]

    def script(self, *replies: Reply) -> None:
        """Answer the next chat completions so, in order."""
        self._script.extend(replies)

    def reset(self) -> None:
        """Forget the script and what arrived, for a server that several tests share."""
        self._script.clear()
        self.requests.clear()
        self.default, self.models, self.models_raw = Reply(), [MODEL], None
        self.health = (200, {"status": "ok"})
        self._loop.call_soon_threadsafe(self._released.clear)

    def release(self) -> None:
        """Let stalled replies go on, now and until `reset`."""
        self._loop.call_soon_threadsafe(self._released.set)

    def wait_for(self, condition: Callable[[OpenAIServer], bool], timeout: float = 60) -> None:
        """Block until the condition holds; checked whenever a request arrives or ends."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout):
                raise AssertionError("the server never saw what the test waits for")

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the scripted server did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(10)

    # The server's own thread.

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        handlers: set[asyncio.Task[None]] = set()

        def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # A task of our own: asyncio's complains when the ones it makes are cancelled.
            task = self._loop.create_task(self._connection(reader, writer))
            handlers.add(task)
            task.add_done_callback(handlers.discard)
            # A task that is cancelled before its first step runs no `finally` of its own.
            task.add_done_callback(lambda _: writer.transport.abort())

        server = await asyncio.start_server(handle, "127.0.0.1", self._port)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._closing.wait()
        for turn in range(8):
            # A connection becomes a handler some turns of the loop after it was accepted.
            if turn == 4:
                server.close()
            for task in list(handlers):
                task.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)
            await asyncio.sleep(0)
        await server.wait_closed()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
            await self._exchange(await _read_request(reader), reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _exchange(
        self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one request, unless the client goes away first."""
        self._note(lambda: self.requests.append(received))
        answer = asyncio.ensure_future(self._answer(received, writer))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                received.disconnected.set()
        finally:
            for task in (answer, gone):
                task.cancel()
            outcome = await asyncio.gather(answer, gone, return_exceptions=True)
            if isinstance(outcome[0], ConnectionError):
                received.disconnected.set()
            elif isinstance(outcome[0], _Cut):
                writer.transport.abort()
            self._note(received.finished.set)

    def _note(self, change: Callable[[], object]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()

    async def _answer(self, received: Received, writer: asyncio.StreamWriter) -> None:
        if received.path.endswith("/chat/completions"):
            reply = self._script.popleft() if self._script else self.default
            await self._chat(reply, received, writer)
        elif self.models_raw is not None and received.path.endswith("/models"):
            status, text = self.models_raw
            await _send(writer, status, {}, text)
        else:
            status, body = self._simple(received)
            await _send(writer, status, {}, json.dumps(body))

    def _simple(self, received: Received) -> tuple[int, Any]:
        if received.path.endswith("/models"):
            rows = [
                {"id": m, "object": "model", "created": 0, "owned_by": "x"} for m in self.models
            ]
            return 200, {"object": "list", "data": rows}
        if received.path.endswith("/embeddings"):
            return 200, self._embeddings(received.body)
        if received.path.endswith("/health"):
            return self.health
        return 404, {"error": {"message": f"no {received.path} here", "type": "not_found"}}

    def _embeddings(self, body: Any) -> dict[str, Any]:
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        rows = [
            {"object": "embedding", "index": i, "embedding": _vector(text, self.dimensions)}
            for i, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return {"object": "list", "data": rows, "model": body.get("model", MODEL), "usage": usage}

    async def _chat(self, reply: Reply, received: Received, writer: asyncio.StreamWriter) -> None:
        await self._at("headers", reply)
        if reply.raw is not None:
            headers = {"content-type": reply.content_type, **reply.headers}
            await _send(writer, reply.status, headers, reply.raw)
        elif reply.status >= 400:
            body = json.dumps({"error": reply.failure})
            await _send(writer, reply.status, reply.headers, body)
        elif received.body.get("stream"):
            await self._stream(reply, received.body, writer)
        else:
            await self._at("first_token", reply)
            await self._at("middle", reply)
            await self._at("end", reply)
            body = json.dumps(_completion(reply, received.body))
            await _send(writer, 200, reply.headers, body)

    async def _stream(self, reply: Reply, body: Any, writer: asyncio.StreamWriter) -> None:
        async def event(data: Any) -> None:
            text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
            await _chunk(writer, f"data: {text}\n\n")

        head = _head(200, {"content-type": "text/event-stream", **reply.headers}, None)
        writer.write(head)
        await writer.drain()
        await event(_delta(reply, body, {"role": "assistant", "content": ""}))
        for _ in range(reply.comments):
            await _chunk(writer, ": keep-alive\n\n")
        await self._at("first_token", reply, event)
        for index, delta in enumerate(_deltas(reply)):
            await event(_delta(reply, body, delta))
            if index == 0:
                if reply.garbage:
                    await event('{"choices": [{"delta": {"conte')
                await self._at("middle", reply, event)
            while reply.drip is not None:
                await asyncio.sleep(reply.drip)
                await event(_delta(reply, body, {"content": "and "}))
        await self._at("end", reply, event)
        if reply.finish_reason is not None:
            await event(_delta(reply, body, {}, reply.finish_reason))
            if (body.get("stream_options") or {}).get("include_usage"):
                await event(
                    {**_delta(reply, body, {}), "choices": [], "usage": _usage(reply, body)}
                )
        if reply.done:
            await event("[DONE]")
        await _chunk(writer, "")

    async def _at(self, place: Place, reply: Reply, event: Any = None) -> None:
        """Do what the script wants at this place of the answer."""
        if reply.stall == place:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), reply.seconds)
        if reply.cut == place:
            raise _Cut
        if event is not None and reply.status == 200 and reply.failure and reply.fail_at == place:
            await event({"error": reply.failure})


async def _read_request(reader: asyncio.StreamReader) -> Received:
    line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = line.split(" ", 2)
    pairs = (header.split(":", 1) for header in rest if ":" in header)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(
        method, path.partition("?")[0], headers, json.loads(content) if content else None
    )


def _head(status: int, headers: Mapping[str, str], length: int | None) -> bytes:
    framing = {"transfer-encoding": "chunked"} if length is None else {"content-length": length}
    fields = {"content-type": "application/json", "connection": "close", **framing, **headers}
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _send(
    writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str], body: str
) -> None:
    content = body.encode()
    writer.write(_head(status, headers, len(content)) + content)
    await writer.drain()


async def _chunk(writer: asyncio.StreamWriter, text: str) -> None:
    content = text.encode()
    writer.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
    await writer.drain()


def _deltas(reply: Reply) -> list[dict[str, Any]]:
    if not reply.tool_calls:
        pieces = [piece + " " for piece in reply.text.split(" ")]
        pieces[-1] = pieces[-1].removesuffix(" ")
        return [{"content": piece} for piece in pieces]
    listed: list[dict[str, Any]] = []
    for index, call in enumerate(reply.tool_calls):
        arguments = call["function"]["arguments"]
        half = len(arguments) // 2
        opening = {**call["function"], "arguments": arguments[:half]}
        listed.append({"tool_calls": [{**call, "index": index, "function": opening}]})
        rest = {"arguments": arguments[half:]}
        listed.append({"tool_calls": [{"index": index, "function": rest}]})
    return listed


def _delta(
    reply: Reply, body: Any, delta: Mapping[str, Any], finish_reason: str | None = None
) -> dict[str, Any]:
    choice = {
        "index": 0,
        "delta": delta,
        "logprobs": reply.logprobs,
        "finish_reason": finish_reason,
    }
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": body.get("model", MODEL),
        "choices": [choice],
    }


def _completion(reply: Reply, body: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        message |= {"content": None, "tool_calls": list(reply.tool_calls)}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": reply.finish_reason,
    }
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body.get("model", MODEL),
        "choices": [choice],
        "usage": _usage(reply, body),
    }


def _usage(reply: Reply, body: Any) -> dict[str, int]:
    prompt = sum(len(str(m.get("content") or "").split()) for m in body.get("messages", []))
    completion = len(reply.text.split())
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _vector(text: str, dimensions: int) -> list[float]:
    """The same text gives the same vector; nothing more is meant by it."""
    digest = hashlib.sha256(text.encode()).digest()
    return [digest[i % len(digest)] / 255 - 0.5 for i in range(dimensions)]
