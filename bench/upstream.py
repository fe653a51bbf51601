"""A model server that costs next to nothing: `python -m bench.upstream PORT`.

It does one thing, on bare sockets: a completion of `max_tokens` tokens. Up to `PLAIN` of them are a
short answer that takes 50 ms; more come every 20 ms. Both hold whether the answer is asked for as a
stream or in one piece, so that nobody gains by asking differently. Each token is the time at which
it was sent, by the clock that all processes of a machine share: whoever receives it knows how long
it was on its way.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import uvloop

PLAIN = 8
SHORT = 0.05
PACE = 0.02

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_MODELS = b'{"object":"list","data":[{"id":"bench","object":"model","created":0,"owned_by":"x"}]}'
_EVENT = (
    '{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    '"choices":[{"index":0,"delta":%s,"finish_reason":%s}]}'
)
_USAGE = (
    '{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    '"choices":[],"usage":{"prompt_tokens":50,"completion_tokens":%d,"total_tokens":%d}}'
)
_WHOLE = (
    '{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"bench",'
    '"choices":[{"index":0,"message":{"role":"assistant","content":"%s"},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":50,"completion_tokens":%d,"total_tokens":%d}}'
)


class Upstream(asyncio.Protocol):
    """One keep-alive connection; requests come one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._clock = asyncio.get_running_loop()
        self._held = b""

    def data_received(self, data: bytes) -> None:
        """Answer a request when it is whole."""
        self._held += data
        head, blank, body = self._held.partition(b"\r\n\r\n")
        if not blank:
            return
        if head.startswith(b"GET"):
            self._held = b""
            self._transport.write(_HEAD % (len(_MODELS), _MODELS))
        elif len(body) >= int(head.lower().split(b"content-length:")[1].split(b"\r")[0]):
            self._held = b""
            self._answer(json.loads(body))

    def _answer(self, asked: dict[str, object]) -> None:
        tokens = int(str(asked["max_tokens"]))
        pace = PACE if tokens > PLAIN else SHORT / tokens
        began = self._clock.time()
        if asked.get("stream"):
            self._transport.write(_STREAM)
            self._event(_EVENT % ('{"role":"assistant","content":""}', "null"))
            self._clock.call_at(began + pace, self._token, 1, tokens, began, pace)
        else:
            self._clock.call_at(began + tokens * pace, self._whole, tokens)

    def _token(self, number: int, tokens: int, began: float, pace: float) -> None:
        if self._transport.is_closing():
            return
        self._event(_EVENT % (f'{{"content":" {time.monotonic():.6f}"}}', "null"))
        if number < tokens:
            due = began + (number + 1) * pace
            self._clock.call_at(due, self._token, number + 1, tokens, began, pace)
            return
        self._event(_EVENT % ("{}", '"stop"'))
        self._event(_USAGE % (tokens, tokens + 50))
        self._event("[DONE]")
        self._transport.write(b"0\r\n\r\n")

    def _whole(self, tokens: int) -> None:
        said = _WHOLE % (f" {time.monotonic():.6f}" * tokens, tokens, tokens + 50)
        self._transport.write(_HEAD % (len(said), said.encode()))

    def _event(self, text: str) -> None:
        if not self._transport.is_closing():
            line = b"data: " + text.encode() + b"\n\n"
            self._transport.write(b"%x\r\n%b\r\n" % (len(line), line))


async def serve(port: int) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
