"""A completion asked for, and the events of the stream that answers.

The SDK's own way from a request to its parsed events takes three times as long as ours. So only the
connections are its own: its HTTP client, with its TLS, its pool and the proxies of its environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self, cast

import httpx2
import orjson
from openai import APIStatusError

_DRAIN = 1.0
"""Seconds that a server has to end its response after `[DONE]`; then its connection is closed."""


class Events:
    """The events of one streamed answer, each a piece of JSON; closed by leaving it."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._parts = response.aiter_bytes()
        self._ready: deque[bytes] = deque()
        self._held = b""
        self._data: list[bytes] = []

    @property
    def form(self) -> str:
        """The content type."""
        return str(self._response.headers.get("content-type", ""))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._parts.aclose()
        await self._response.aclose()

    async def next(self) -> object | None:
        """The next event's object; None after `[DONE]`, and where the stream ends.

        Raises:
            httpx2.HTTPError: the connection broke.
            ValueError: what came is not JSON.
        """
        while not self._ready:
            part = await anext(self._parts, None)
            if part is None:
                return None
            self._take(part)
        data = self._ready.popleft()
        if data.startswith(b"[DONE]"):
            await self._drain()
            return None
        return cast(object, orjson.loads(data))

    def _take(self, part: bytes) -> None:
        """Lines end with LF, CR LF or CR; `data` lines up to a blank one are an event."""
        text = self._held + part
        if b"\r" in text:
            half = text.endswith(b"\r")  # the LF may be in the next part
            text = text.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            text += b"\r" if half else b""
        *lines, self._held = text.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                self._ready.append(b"\n".join(self._data))
                self._data = []

    async def _drain(self) -> None:
        """Read to the end, so that the connection can be used again."""
        with contextlib.suppress(TimeoutError, httpx2.HTTPError):
            async with asyncio.timeout(_DRAIN):
                async for _ in self._parts:
                    pass


async def post(
    client: httpx2.AsyncClient, url: str, body: object, headers: Mapping[str, str]
) -> Events:
    """Send `body` as JSON; the events of the answer, whose status was 2xx.

    Raises:
        APIStatusError: it was another one.
        httpx2.HTTPError: no answer came.
    """
    request = client.build_request("POST", url, content=_encoded(body), headers=headers)
    response = await client.send(request, stream=True)
    if response.is_success:
        return Events(response)
    try:
        await response.aread()
    finally:
        await response.aclose()
    raise APIStatusError(f"status {response.status_code}", response=response, body=_error(response))


def _encoded(body: object) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # a number of more than 64 bits, half a character
        return json.dumps(body).encode()


def _error(response: httpx2.Response) -> object:
    """What stands under "error", or the text."""
    try:
        body = response.json()
    except ValueError:
        return response.text.strip()
    return body.get("error", body) if isinstance(body, dict) else body
