"""Any server that speaks OpenAI's chat completions, through OpenAI's own SDK.

OpenAI, llm_offline, Ollama, LM Studio, vLLM and the rest are rows, not classes. What the SDK raises
leaves here as our own errors (see `upstream`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from openai import APIStatusError

from rag_backend.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable
from rag_backend.llm.events import Events, post
from rag_backend.llm.provider import ChatRequest, Chunk
from rag_backend.llm.rows import ProviderRow
from rag_backend.llm.streams import says_something
from rag_backend.upstream import SDK_ERRORS, Host

_UNNAMED_MODEL = "default"
_LOOKUP_TIMEOUT = 3.0
_LOOKUP_PAUSE = 10.0
"""Seconds between two lookups that find nothing: requests must not queue behind them."""
_WHOLE = frozenset({"stop", "tool_calls", "function_call"})
"""Reasons to finish that promise an answer."""


class Answer(NamedTuple):
    """A plain GET: the status, and the JSON body (None where it is not JSON)."""

    status: int
    body: Any


class OpenAICompatible:
    """One host of a row; its sockets are closed by `aclose`."""

    def __init__(self, row: ProviderRow, base_url: str, *, connect_timeout: float) -> None:
        self._row = row
        self._found_model: str | None = None
        self._lookup = asyncio.Lock()
        self._look_again = 0.0
        self._host = Host(
            who=f"Provider {row.name!r}",
            base_url=base_url,
            secret=row.secret,
            proxied=row.cloud,
            url_setting=row.url_setting,
            key_setting=row.key_setting,
            model_setting=row.model_setting,
            connect_timeout=connect_timeout,
        )
        self._connections = self._host.connections()
        self._client = self._host.client(self._connections)
        self._completions = f"{base_url.rstrip('/')}/chat/completions"
        self._headers = self._host.headers

    @property
    def name(self) -> str:
        """The row's name."""
        return self._row.name

    @property
    def url(self) -> str:
        """The host's base URL, fit for a log."""
        return self._host.url

    @property
    def model(self) -> str | None:
        """The model it asks for; None while that has to be looked up."""
        return self._row.model or self._found_model

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """See LLMProvider. Always streamed, so that a client that leaves frees the upstream.

        Raises:
            UpstreamError: of the kind that fits; the message names the provider and the remedy.
        """
        begun = spoken = finished = False
        usage: Chunk | None = None
        try:
            answer = await self._open(request)
            begun = True
            async with answer:
                self._check_form(answer.form)
                while (data := await answer.next()) is not None:
                    chunk = self._checked(data)
                    usage = _take_usage(chunk) or usage
                    if chunk["choices"]:
                        spoken = spoken or says_something(chunk)
                        finished = finished or _is_finish(chunk)
                        if finished and not spoken:
                            self._check_silence(chunk, request)
                        yield chunk
        except SDK_ERRORS as error:
            failure = self._host.failure(error, begun=begun)
            if failure.status == 404:
                self._found_model, self._look_again = None, 0.0  # it may serve another one now
            # The SDK's text may quote a key, so it is left out of what a log could print.
            raise failure from None
        if not finished:
            raise self._host.cut("ended its answer in the middle, without a finish_reason")
        if usage is not None:
            yield usage

    async def get(self, path: str, timeout: float) -> Answer:
        """GET a path: "models" below the base URL, "/health" below the host.

        Raises:
            UpstreamError: no HTTP answer came.
        """
        url = str(self._client.base_url.join(path))
        try:
            async with asyncio.timeout(timeout):
                answer = await self._client.get(url, cast_to=object, options=self._host.options)
        except APIStatusError as error:
            return Answer(error.status_code, _whole_body(error))
        except TimeoutError:
            raise UpstreamTimeout(
                f"{self._host.named} did not answer within {timeout:g} s: {self._host.check_server}"
            ) from None
        except SDK_ERRORS as error:
            raise self._host.failure(error, begun=False) from None
        return Answer(200, answer)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def _open(self, request: ChatRequest) -> Events:
        body = {
            **request.options,
            "model": request.model or await self._model(),
            "messages": [dict(message) for message in request.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return await post(self._connections, self._completions, body, self._headers)

    async def _model(self) -> str:
        """The row's model, or the first that the server lists; looked up once."""
        if self.model is None:
            async with self._lookup:
                if self.model is None and time.monotonic() >= self._look_again:
                    self._found_model = await self._looked_up()
                    self._look_again = time.monotonic() + _LOOKUP_PAUSE
        return self.model or _UNNAMED_MODEL

    async def _looked_up(self) -> str | None:
        try:
            status, body = await self.get("models", _LOOKUP_TIMEOUT)
        except UpstreamUnavailable:
            raise  # the completion would fail for the same reason
        except UpstreamError:
            return None  # a server may be slow to list its models, and still complete
        return _first_model(body) if status == 200 else None

    def _check_form(self, form: str) -> None:
        if "html" in form:
            raise self._host.not_openai("sent a web page instead of a completion")
        if "json" in form:
            raise self._host.not_openai("sent one JSON object instead of a stream")

    def _check_silence(self, finish: Chunk, request: ChatRequest) -> None:
        """An answer without a word is a failure, unless its end explains it.

        `length` and `content_filter` do, and so does a stop string that came first of all.
        """
        reasons = {choice.get("finish_reason") for choice in finish["choices"]}
        if request.options.get("stop") or not reasons & _WHOLE:
            return
        failure = self._host.cut("sent an empty answer")
        failure.host_failed = False
        raise failure

    def _checked(self, data: object) -> Chunk:
        if not isinstance(data, dict):
            raise self._host.not_openai("sent something that is not a completion")
        if data.get("error"):
            raise self._host.event_failure(data["error"])
        choices = data.get("choices")
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise self._host.not_openai("sent something that is not a completion")
        data["provider"] = self.name
        return data


def _is_finish(chunk: Chunk) -> bool:
    return any(choice.get("finish_reason") is not None for choice in chunk["choices"])


def _take_usage(chunk: Chunk) -> Chunk | None:
    """The chunk's usage as a chunk of its own: some servers send it along with the finish."""
    usage = chunk.pop("usage", None)
    if not isinstance(usage, dict):
        return None
    return {**chunk, "choices": [], "usage": usage}


def _whole_body(error: APIStatusError) -> Any:
    """The JSON that came with an error: the SDK's `body` is only what stands under "error"."""
    try:
        return error.response.json()
    except ValueError:
        return None


def _first_model(body: Any) -> str | None:
    rows = body.get("data") if isinstance(body, dict) else None
    first = rows[0] if isinstance(rows, list) and rows else None
    return _text(first.get("id")) if isinstance(first, dict) else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)
