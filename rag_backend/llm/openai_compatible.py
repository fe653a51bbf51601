"""Any server that speaks OpenAI's chat completions, through OpenAI's own SDK.

OpenAI, llm_offline, Ollama, LM Studio, vLLM and the rest are rows, not classes. This module is the
only one that knows the SDK: what it raises leaves here as our own errors, told apart by type.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import aiohttp
from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    AsyncOpenAI,
    AsyncStream,
    DefaultAioHttpClient,
    Omit,
    RequestOptions,
    Timeout,
)

from rag_backend.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from rag_backend.llm.masking import mask
from rag_backend.llm.provider import ChatRequest, Chunk
from rag_backend.llm.rows import ProviderRow, shown_url
from rag_backend.llm.streams import says_something

LOADING = "model_loading"
"""`code` of the UpstreamUnavailable that says: the model is still being loaded, ask again."""

_UNNAMED_MODEL = "default"
_LOOKUP_TIMEOUT = 3.0
_LOOKUP_PAUSE = 10.0
"""Seconds between two lookups that find nothing: requests must not queue behind them."""
_LONGEST_EXCERPT = 300
_RETRYABLE = frozenset({408, 409, 425, 429})
_WHOLE = frozenset({"stop", "tool_calls", "function_call"})
"""Reasons to finish that promise an answer."""

_SDK_ERRORS = (APIError, aiohttp.ClientError, ValueError)
"""All that a call of the SDK raises: its own errors, the transport's that it lets through (what is
not HTTP), and what `json` says about garbage."""


class Answer(NamedTuple):
    """A plain GET: the status, and the JSON body (None where it is not JSON)."""

    status: int
    body: Any


class OpenAICompatible:
    """One host of a row; its sockets are closed by `aclose`."""

    def __init__(self, row: ProviderRow, base_url: str, *, connect_timeout: float) -> None:
        self._row = row
        self._url = shown_url(base_url)
        self._found_model: str | None = None
        self._lookup = asyncio.Lock()
        self._look_again = 0.0
        self._connect_timeout = connect_timeout
        self._options: RequestOptions = {"headers": _omitted(row)}
        self._client = AsyncOpenAI(
            # Never left to the SDK: it would take OpenAI's key, organisation and project from the
            # environment and send them to any host.
            api_key=row.secret,
            admin_api_key="",
            organization="",
            project="",
            base_url=base_url,
            max_retries=0,
            # The other limits are wrappers' work: only they know what counts as a token.
            timeout=Timeout(None, connect=connect_timeout, pool=connect_timeout),
            http_client=DefaultAioHttpClient(
                # A prompt goes where the setting says and nowhere else: no redirect is followed,
                # and no proxy of the environment sees what is meant for the LAN.
                follow_redirects=False,
                mounts={} if row.cloud else {"http://": None, "https://": None},
            ),
        )

    @property
    def name(self) -> str:
        """The row's name."""
        return self._row.name

    @property
    def url(self) -> str:
        """The host's base URL, fit for a log."""
        return self._url

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
                self._check_form(answer)
                # `__anext__` by hand: the SDK's `__aiter__` is a generator that nobody closes.
                while (data := await anext(answer, None)) is not None:
                    chunk = self._checked(data)
                    usage = _take_usage(chunk) or usage
                    if chunk["choices"]:
                        spoken = spoken or says_something(chunk)
                        finished = finished or _is_finish(chunk)
                        if finished and not spoken:
                            self._check_silence(chunk, request)
                        yield chunk
        except _SDK_ERRORS as error:
            failure = self._failure(error, begun=begun)
            if failure.status == 404:
                self._found_model, self._look_again = None, 0.0  # it may serve another one now
            # The SDK's text may quote a key, so it is left out of what a log could print.
            raise failure from None
        if not finished:
            raise self._cut("ended its answer in the middle, without a finish_reason")
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
                answer = await self._client.get(url, cast_to=object, options=self._options)
        except APIStatusError as error:
            return Answer(error.status_code, _whole_body(error))
        except TimeoutError:
            raise UpstreamTimeout(
                f"{self._who} did not answer within {timeout:g} s: {self._check_server}"
            ) from None
        except _SDK_ERRORS as error:
            raise self._failure(error, begun=False) from None
        return Answer(200, answer)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def _open(self, request: ChatRequest) -> AsyncStream[object]:
        body = {
            **request.options,
            "model": request.model or await self._model(),
            "messages": [dict(message) for message in request.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        # `cast_to=object` hands each event on as the dict it is: no model is built and dumped.
        return await self._client.post(
            "/chat/completions",
            cast_to=object,
            body=body,
            options=self._options,
            stream=True,
            stream_cls=AsyncStream[object],
        )

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

    def _check_form(self, answer: AsyncStream[object]) -> None:
        form = answer.response.headers.get("content-type", "")
        if "html" in form:
            raise self._not_openai("sent a web page instead of a completion")
        if "json" in form:
            raise self._not_openai("sent one JSON object instead of a stream")

    def _check_silence(self, finish: Chunk, request: ChatRequest) -> None:
        """An answer without a word is a failure, unless its end explains it.

        `length` and `content_filter` do, and so does a stop string that came first of all.
        """
        reasons = {choice.get("finish_reason") for choice in finish["choices"]}
        if request.options.get("stop") or not reasons & _WHOLE:
            return
        failure = self._cut("sent an empty answer")
        failure.host_failed = False
        raise failure

    def _checked(self, data: object) -> Chunk:
        if not isinstance(data, dict):
            raise self._not_openai("sent something that is not a completion")
        if data.get("error"):
            raise self._event_failure(data["error"])
        choices = data.get("choices")
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise self._not_openai("sent something that is not a completion")
        data["provider"] = self.name
        return data

    # What a failure is called. Below, in words.

    def _failure(self, error: Exception, *, begun: bool) -> UpstreamError:
        if isinstance(error, APIStatusError):
            return self._status_failure(error)
        if isinstance(error, APIConnectionError | aiohttp.ClientError):
            return self._connection_failure(error, begun=begun)
        if isinstance(error, APIError):
            return self._event_failure(error.body)
        return self._not_openai("sent something that is not JSON")

    def _status_failure(self, error: APIStatusError) -> UpstreamError:
        status, detail = error.status_code, self._detail(error.body)
        wait = _retry_after(error.response.headers)
        if status < 400:
            return self._not_openai(f"redirects elsewhere ({status})")
        if status in (401, 403):
            return UpstreamRefused(
                f"{self._who} refused the API key ({status}): check {self._row.key_setting}.",
                status=status,
                code=error.code,
                param=error.param,
            )
        if status == 429:
            return UpstreamLimited(
                f"{self._who} has reached its limit (429){detail} Try again later.",
                code=error.code,
                retry_after=wait,
            )
        if status == 503:
            return self._not_ready(error.code, detail, wait)
        if status >= 500 or status in _RETRYABLE:
            failure = UpstreamError(f"{self._who} failed ({status}){detail}", retry_after=wait)
            failure.host_failed = status >= 500
            return failure
        if status == 404 and error.code is None:
            detail = f"{detail} Check the address ({self._row.url_setting}) and the model's name."
        return UpstreamRefused(
            f"{self._who} refused the request ({status}){detail}",
            status=status,
            code=error.code,
            param=error.param,
        )

    def _not_ready(self, code: str | None, detail: str, wait: float | None) -> UpstreamError:
        loading = "loading" in f"{code} {detail}".lower()
        failure = UpstreamUnavailable(
            f"{self._who} is not ready (503){detail}",
            code=LOADING if loading else None,
            retry_after=wait,
        )
        failure.host_failed = not loading
        return failure

    def _connection_failure(self, error: Exception, *, begun: bool) -> UpstreamError:
        causes = list(_causes(error))
        if begun:
            return self._cut("broke the connection in the middle of its answer")
        if any(isinstance(cause, TimeoutError) for cause in causes):
            return UpstreamTimeout(
                f"{self._who} accepted no connection within {self._connect_timeout:g} s "
                f"(LLM_CONNECT_TIMEOUT): {self._check_server}"
            )
        if any(isinstance(cause, aiohttp.ClientConnectorError) for cause in causes):
            return UpstreamUnavailable(f"{self._who} cannot be reached: {self._check_server}")
        if any(isinstance(cause, aiohttp.ClientResponseError) for cause in causes):
            return self._not_openai("does not speak HTTP")
        return UpstreamUnavailable(
            f"{self._who} closed the connection without an answer: {self._check_server}"
        )

    def _event_failure(self, body: object) -> UpstreamError:
        """An `{"error": …}` event in a stream whose status was 200."""
        fields: Mapping[str, Any] = body if isinstance(body, dict) else {"message": str(body)}
        detail = self._detail(fields)
        if fields.get("type") == "invalid_request_error":
            return UpstreamRefused(
                f"{self._who} refused the request{detail}",
                status=400,
                code=_text(fields.get("code")),
                param=_text(fields.get("param")),
            )
        return UpstreamBroken(f"{self._who} reported an error in the middle of its answer{detail}")

    def _cut(self, what: str) -> UpstreamBroken:
        return UpstreamBroken(f"{self._who} {what}: the server's log says why; ask again.")

    def _not_openai(self, what: str) -> UpstreamBroken:
        remedy = f"check that {self._row.url_setting} is the base of an OpenAI-style API."
        return UpstreamBroken(f"{self._who} {what}: {remedy}")

    @property
    def _who(self) -> str:
        return f"Provider {self.name!r} at {self._url}"

    @property
    def _check_server(self) -> str:
        return f"check that a model server runs there, and {self._row.url_setting}."

    def _detail(self, body: object) -> str:
        """`: "what the upstream said".`, or a full stop; short, and without the key."""
        nested = body.get("error", body) if isinstance(body, Mapping) else body
        said = nested.get("message") if isinstance(nested, Mapping) else nested
        if not isinstance(said, str) or not said.strip() or said.lstrip().startswith("<"):
            return "."
        words = " ".join(said.split())[:_LONGEST_EXCERPT]
        return f': "{mask(words, self._row.secret).rstrip(".")}".'


def _omitted(row: ProviderRow) -> dict[str, str | Omit]:
    """Headers that the SDK would send empty, and that some servers then refuse."""
    names = ["OpenAI-Organization", "OpenAI-Project"]
    return dict.fromkeys(names if row.secret else [*names, "Authorization"], Omit())


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


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from milliseconds, seconds or a date; nonsense counts as not given."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) / unit
        except ValueError:
            date = _date(value)
            seconds = -1.0 if date is None else max(0.0, date.timestamp() - time.time())
        if 0 <= seconds < 86_400:
            return seconds
    return None


def _date(value: str) -> datetime | None:
    try:
        return parsedate_to_datetime(value)
    except ValueError:
        return None


def _causes(error: BaseException | None) -> list[BaseException]:
    """The error and what it was raised from, outermost first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
