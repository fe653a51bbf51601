"""The short way for a request that was answered before, byte for byte the same.

Parsing and checking a chat request takes longer than looking its answer up. So the middleware
remembers, for bodies that have passed all that once, the little that is needed to look again. It
knows no answers: each is looked up anew, under the models and documents of now.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_backend.answering.caching import Wanted
from rag_backend.answering.recording import Recording
from rag_backend.api.asking import asker, freshness
from rag_backend.api.parts import Parts
from rag_backend.api.replaying import replayed
from rag_backend.api.rights import caller_in, reached
from rag_backend.api.sse import HEADERS
from rag_backend.errors import RAGError
from rag_backend.keys import Caller
from rag_backend.notes import notes

PATH = "/v1/chat/completions"
LARGEST = 64 * 1024
"""Bytes of a body that is looked at here; longer ones take the long way."""
MOST = 10_000
"""Requests remembered, of some 500 bytes each."""

_NOTE = "rag_backend.repeating"


@dataclass(frozen=True, slots=True)
class Known:
    """A request that has passed every check.

    Attributes:
        name, store: What the request's `model` names (see `split_model`).
        usage: Whether a stream ends with the counts.
        route: Under whose path the request is counted.
    """

    wanted: Wanted
    name: str | None
    store: str
    stream: bool
    usage: bool
    route: object


class Repeating:
    """ASGI middleware, inside the guard."""

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self._app = app
        self._parts = parts
        self._keyed = bool(parts.settings.api_keys)
        # Whoever wants questions in the log gets them from the long way.
        self._off = not parts.answers.caching or parts.settings.log_content
        self._known: OrderedDict[bytes, Known] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on untouched."""
        if self._off or scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if not length.isdigit() or int(length) > LARGEST or freshness(headers) != "any":
            await self._app(scope, receive, send)
            return
        read = await _read(receive)
        digest = self._digest(scope, headers, read)
        known = self._known.get(digest)
        recording = await self._recorded(known, caller_in(scope)) if known is not None else None
        if known is None or recording is None:
            scope[_NOTE] = (self, digest)
            await self._app(scope, replayed(read, receive), send)
            return
        self.remember(digest, known)  # as the latest: it may have been forgotten meanwhile
        scope["route"] = known.route
        await recorded_response(recording, stream=known.stream, usage=known.usage)(
            scope, receive, send
        )

    def remember(self, digest: bytes, known: Known) -> None:
        """A request has passed every check."""
        self._known[digest] = known
        self._known.move_to_end(digest)
        if len(self._known) > MOST:
            self._known.popitem(last=False)

    def _digest(self, scope: Scope, headers: Headers, read: list[Message]) -> bytes:
        """Of everything that the long way looks at."""
        hashed = hashlib.sha256()
        about = (
            scope["method"],
            scope["scheme"],
            scope.get("root_path", ""),
            str(scope.get("server")),
            headers.get("host", ""),
            headers.get("content-type", ""),
            asker(headers, keyed=self._keyed),
        )
        hashed.update(repr(about).encode())
        for message in read:
            hashed.update(message.get("body", b""))
        return hashed.digest()

    async def _recorded(self, known: Known, caller: Caller) -> Recording | None:
        try:
            provider = self._parts.registry.named(known.name)
            store = reached(await self._parts.library.store(known.store), known.store, caller)
        except RAGError:
            return None  # the long way says it properly
        return await self._parts.answers.recorded(known.wanted, provider, store)


def remember(request: Request, known: Known) -> None:
    """Take the short way with this request from now on, where it came past the middleware."""
    note = request.scope.get(_NOTE)
    if note is not None:
        middleware, digest = note
        middleware.remember(digest, known)


def recorded_response(recording: Recording, *, stream: bool, usage: bool) -> Response:
    """A recorded answer as an HTTP response."""
    headers = {"x-cache": "hit", "age": str(recording.age)}
    if recording.route is not None:
        headers["x-route"] = notes().route = recording.route
    if stream:
        headers |= HEADERS
        return Response(
            recording.events(usage=usage), media_type="text/event-stream", headers=headers
        )
    return Response(recording.completion(), media_type="application/json", headers=headers)


async def _read(receive: Receive) -> list[Message]:
    """The body's messages, up to the last one or the client's leaving."""
    read = [await receive()]
    while read[-1].get("more_body"):
        read.append(await receive())
    return read
