"""One host that speaks OpenAI's API, through OpenAI's own SDK: addresses, the client, its failures.

Models and encoders behind HTTP both speak through this module. It is the only one that knows what
the SDK raises, and turns it into our own errors, told apart by type.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import httpx2
from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    AsyncOpenAI,
    DefaultAioHttpClient,
    Omit,
    RequestOptions,
    Timeout,
)

from rag_backend.errors import (
    StartError,
    UpstreamBroken,
    UpstreamError,
    UpstreamLimited,
    UpstreamMisconfigured,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from rag_backend.masking import mask

LOADING = "model_loading"
"""`code` of the UpstreamUnavailable that says: the model is still being loaded, ask again."""
RESTING = "upstream_resting"
"""`code` of the error that an open breaker raises: asking again at once is of no use."""
SDK_ERRORS = (APIError, httpx2.HTTPError, aiohttp.ClientError, ValueError)
"""All that a call of the SDK or of its connections raises: its own errors, theirs, the transport's
that they let through (what is not HTTP), and what `json` says about garbage."""

_LONGEST_EXCERPT = 300
_RETRYABLE = frozenset({408, 409, 425, 429})
_OPERATORS = frozenset({401, 402, 403, 404, 405, 407})
"""Refusals that every request would meet: what is set here for the upstream is wrong."""
_IN_WORDS = {
    "invalid_api_key": 401,
    "authentication_error": 401,
    "permission_error": 403,
    "model_not_found": 404,
    "not_found_error": 404,
}
"""Codes and types of error events that mean such a status."""


@dataclass(frozen=True, slots=True)
class Host:
    """One base URL, and the words for what goes wrong there.

    Attributes:
        who: What a message calls it: "Provider 'local'", "The embedding server".
        base_url: With its path (`/v1`).
        secret: The key in clear text, "" where there is none.
        proxied: Whether the environment's proxy may see the requests.
        url_setting, key_setting, model_setting: Where a person corrects the address, the key and
            the model's name.
        connect_timeout: In seconds.
        kind: What should run there.
    """

    who: str
    base_url: str
    secret: str
    proxied: bool
    url_setting: str
    key_setting: str
    connect_timeout: float
    kind: str = "a model server"
    model_setting: str = "model"

    @property
    def url(self) -> str:
        """The base URL, fit for a log."""
        return shown_url(self.base_url)

    @property
    def options(self) -> RequestOptions:
        """What every request of the SDK needs: headers that it would send empty are left out."""
        names = ["OpenAI-Organization", "OpenAI-Project"]
        omitted = names if self.secret else [*names, "Authorization"]
        return {"headers": dict.fromkeys(omitted, Omit())}

    def check(self) -> None:
        """Raise StartError for what every request would fail for later, less clearly."""
        check_access((self.base_url,), self.secret, self.url_setting, self.key_setting)

    @property
    def headers(self) -> dict[str, str]:
        """What a request that the SDK does not build needs."""
        headers = {"content-type": "application/json", "user-agent": "rag-backend"}
        if not self.proxied:
            # A model server of the LAN that is loading would make a request wait. Told so at once,
            # we can ask another host, and wait for this one as LLM_LOADING_TIMEOUT says.
            headers["prefer"] = "wait=0"
        return headers | ({"authorization": f"Bearer {self.secret}"} if self.secret else {})

    def connections(self) -> DefaultAioHttpClient:
        """The SDK's connections to the host; made and closed in the caller's event loop."""
        return DefaultAioHttpClient(
            timeout=self._timeout,
            # A text goes where the setting says and nowhere else: no redirect is followed,
            # and no proxy of the environment sees what is meant for the LAN.
            follow_redirects=False,
            mounts={} if self.proxied else {"http://": None, "https://": None},
        )

    def client(self, connections: DefaultAioHttpClient | None = None) -> AsyncOpenAI:
        """The SDK's client without its own retries; closing it closes the connections."""
        return AsyncOpenAI(
            # Never left to the SDK: it would take OpenAI's key, organisation and project from the
            # environment and send them to any host.
            api_key=self.secret,
            admin_api_key="",
            organization="",
            project="",
            base_url=self.base_url,
            max_retries=0,
            # The other limits are the callers' work: only they know what they wait for.
            timeout=self._timeout,
            http_client=connections or self.connections(),
        )

    @property
    def _timeout(self) -> Timeout:
        return Timeout(None, connect=self.connect_timeout, pool=self.connect_timeout)

    # What a failure is called. Below, in words.

    def failure(self, error: Exception, *, begun: bool) -> UpstreamError:
        """One of SDK_ERRORS as our own; `begun`: the status had come, and it was 200."""
        if isinstance(error, APIStatusError):
            return self._status_failure(error)
        if isinstance(error, APIConnectionError | httpx2.HTTPError | aiohttp.ClientError):
            return self._connection_failure(error, begun=begun)
        if isinstance(error, APIError):
            return self.event_failure(error.body)
        return self.not_openai("sent something that is not JSON")

    def _status_failure(self, error: APIStatusError) -> UpstreamError:
        status, detail = error.status_code, self._detail(error.body)
        wait = _retry_after(error.response.headers)
        if status < 400:
            return self.not_openai(f"redirects elsewhere ({status})")
        if status in _OPERATORS:
            return self._misconfigured(status, detail)
        if status == 429:
            return UpstreamLimited(
                f"{self.named} has reached its limit (429){detail} Try again later.",
                code=error.code,
                retry_after=wait,
            )
        if status == 503:
            return self._not_ready(error.code, detail, wait)
        if status >= 500 or status in _RETRYABLE:
            failure = UpstreamError(f"{self.named} failed ({status}){detail}", retry_after=wait)
            failure.host_failed = status >= 500
            return failure
        return UpstreamRefused(
            f"{self.named} refused the request ({status}){detail}",
            status=status,
            code=error.code,
            param=error.param,
        )

    def _misconfigured(self, status: int, detail: str) -> UpstreamMisconfigured:
        """Says whose key, address or name is wrong, to a client as well as to the operator."""
        known = {
            401: "refused the API key of this backend (401), not a client's: correct "
            f"{self.key_setting}"
            if self.secret
            else "wants an API key (401), and this backend has none for it: set "
            f"{self.key_setting}",
            402: f"wants payment (402){detail} See to the account of {self.key_setting}",
            403: f"does not let this backend in (403){detail} Check {self.key_setting}",
            404: f"knows no such model or address (404){detail} Check {self.model_setting} and "
            f"{self.url_setting}",
        }
        otherwise = f"takes no questions there ({status}){detail} Check {self.url_setting}"
        sentence = known.get(status, otherwise)
        return UpstreamMisconfigured(
            f"{self.named} {sentence} where the backend runs.", status=status
        )

    def _not_ready(self, code: str | None, detail: str, wait: float | None) -> UpstreamError:
        loading = "loading" in f"{code} {detail}".lower()
        failure = UpstreamUnavailable(
            f"{self.named} is not ready (503){detail}",
            code=LOADING if loading else None,
            retry_after=wait,
        )
        failure.host_failed = not loading
        return failure

    def _connection_failure(self, error: Exception, *, begun: bool) -> UpstreamError:
        causes = list(_causes(error))
        if begun:
            return self.cut("broke the connection in the middle of its answer")
        if any(isinstance(cause, TimeoutError) for cause in causes):
            return UpstreamTimeout(
                f"{self.named} accepted no connection within {self.connect_timeout:g} s "
                f"(LLM_CONNECT_TIMEOUT): {self.check_server}"
            )
        if any(isinstance(cause, aiohttp.ClientSSLError) for cause in causes):
            return UpstreamUnavailable(
                f"{self.named} makes no secure connection: check its certificate, or whether "
                f"{self.url_setting} should begin with http://."
            )
        if any(isinstance(cause, aiohttp.ClientConnectorError) for cause in causes):
            return UpstreamUnavailable(f"{self.named} cannot be reached: {self.check_server}")
        if any(isinstance(cause, aiohttp.ClientResponseError) for cause in causes):
            return self.not_openai("does not speak HTTP")
        return UpstreamUnavailable(
            f"{self.named} closed the connection without an answer: {self.check_server}"
        )

    def event_failure(self, body: object) -> UpstreamError:
        """An `{"error": …}` event in a stream whose status was 200."""
        fields: Mapping[str, Any] = body if isinstance(body, dict) else {"message": str(body)}
        detail = self._detail(fields)
        if fields.get("code") == "loading":
            return self._not_ready("loading", detail, None)
        status = _status_of(fields)
        if status in _OPERATORS:
            return self._misconfigured(status, detail)
        if fields.get("type") == "invalid_request_error":
            return UpstreamRefused(
                f"{self.named} refused the request{detail}",
                status=400,
                code=_text(fields.get("code")),
                param=_text(fields.get("param")),
            )
        return UpstreamBroken(f"{self.named} reported an error in the middle of its answer{detail}")

    def cut(self, what: str) -> UpstreamBroken:
        """An answer that began well and is not whole."""
        return UpstreamBroken(f"{self.named} {what}: the server's log says why; ask again.")

    def not_openai(self, what: str) -> UpstreamBroken:
        """An answer that no such server gives: most likely the address is wrong."""
        remedy = f"check that {self.url_setting} is the base of an OpenAI-style API."
        return UpstreamBroken(f"{self.named} {what}: {remedy}")

    @property
    def named(self) -> str:
        """How a message begins."""
        return f"{self.who} at {self.url}"

    @property
    def check_server(self) -> str:
        """How it ends when nobody answers."""
        return f"check that {self.kind} runs there, and {self.url_setting}."

    def _detail(self, body: object) -> str:
        """`: "what the upstream said".`, or a full stop; short, and without the key."""
        nested = body.get("error", body) if isinstance(body, Mapping) else body
        said = nested.get("message") if isinstance(nested, Mapping) else nested
        if not isinstance(said, str) or not said.strip() or said.lstrip().startswith("<"):
            return "."
        words = " ".join(said.split())[:_LONGEST_EXCERPT]
        return f': "{mask(words, self.secret).rstrip(".")}".'


def with_version(url: str) -> str:
    """A base URL as the SDK wants it: one without a path gets `/v1`, one of a call loses that."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    for call in ("/chat/completions", "/completions", "/embeddings", "/models"):
        path = path.removesuffix(call)
    path = path or "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def shown_url(url: str) -> str:
    """A URL without user name, password and query: fit for a log."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_openai(url: str) -> bool:
    """Whether it leads to OpenAI itself."""
    name = urlsplit(url).hostname or ""
    return name == "openai.com" or name.endswith(".openai.com")


def check_access(urls: Sequence[str], secret: str, url_setting: str, key_setting: str) -> None:
    """Raise StartError for a key or an address that no request could use; names the setting."""
    for url in urls:
        try:
            httpx2.URL(url)
        except httpx2.InvalidURL as error:  # such as signs that no name of a host has
            raise StartError(f"{url_setting} is not a URL that can be used: {error}") from error
    if not secret and any(map(is_openai, urls)):
        raise StartError(
            f"{url_setting} is OpenAI's, which answers nobody without a key: set {key_setting}"
        )
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise StartError(
            f"{key_setting} is not a key: it contains spaces or characters that no key has"
        )
    if any("@" in urlsplit(url).netloc for url in urls):
        raise StartError(
            f"{url_setting} contains a user name or password: leave it out, and set "
            f"{key_setting} if the server wants a key"
        )


def _status_of(event: Mapping[str, Any]) -> int:
    """The status that an error event means by its code or type; 0 where it means none."""
    code = event.get("code")
    if isinstance(code, int):  # as OpenRouter writes it
        return code
    return _IN_WORDS.get(str(code)) or _IN_WORDS.get(str(event.get("type"))) or 0


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
