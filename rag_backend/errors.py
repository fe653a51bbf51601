"""Errors of this package, each with its HTTP status and OpenAI's error envelope.

RAGError
├── StartError                 the backend cannot start: one line for the operator
├── BadRequest            400  the request cannot be honoured as it stands
│   └── UnsupportedFeature     valid for OpenAI, not offered here: refused, never ignored
├── Unauthorized          401
├── Forbidden             403  the server does not answer to the name it was reached by
│   └── MissingRight           the key may not do this
├── NotFound              404
├── Conflict              409
├── TooSlow               408  the body stopped coming
├── TooLarge              413
├── Busy                  429  too many requests at once
├── Starting              503  the encoder is still loading
├── CacheUnavailable      503  the answer cache could not be cleared
├── StorageAway           503  a database does not answer: nothing is lost, try again
│   ├── StorageLocked          another program holds the catalog's file: nothing was written
│   └── StorageLost            derived data are damaged, and made anew by themselves
├── StorageFull           507  the disk is full
├── StorageBroken         500  a data directory is damaged; says how to rebuild
└── UpstreamError         502  a model server failed
    ├── UpstreamUnavailable 503  no connection could be made
    ├── UpstreamTimeout   504  connect, first token, between tokens or total limit passed
    ├── UpstreamLimited   429  rate limit; may carry Retry-After
    ├── UpstreamRefused   4xx  the upstream says that the request is wrong: never retried
    │   └── UpstreamMisconfigured 502  the key, address or model's name set for it is wrong
    └── UpstreamBroken    502  the stream was cut, or what came is not a completion
"""

from __future__ import annotations

from typing import Any


class RAGError(Exception):
    """Base of everything this package raises on purpose; its text is one sentence for a person."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code if code is not None else type(self).code

    def envelope(self) -> dict[str, Any]:
        """OpenAI's error object: `{"error": {"message", "type", "param", "code"}}`."""
        return {
            "error": {
                "message": str(self),
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def client_status(self) -> int:
        """The HTTP status that a client of ours sees."""
        return self.status

    def headers(self) -> dict[str, str]:
        """Response headers that belong to the error."""
        return {}


class StartError(RAGError):
    """The backend cannot start."""


class BadRequest(RAGError):
    """The request cannot be honoured as it stands."""

    status = 400
    type = "invalid_request_error"


class UnsupportedFeature(BadRequest):
    """A feature of OpenAI's API that this backend does not offer."""

    code = "unsupported_parameter"


class Unauthorized(RAGError):
    """No API key, or a wrong one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(RAGError):
    """The server does not answer to the name it was reached by."""

    status = 403
    type = "invalid_request_error"
    code = "host_not_allowed"


class MissingRight(Forbidden):
    """The API key may not do this; says which right it lacks."""

    code = "insufficient_permissions"


class NotFound(RAGError):
    """No such file, vector store or model."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class Conflict(RAGError):
    """The object is in a state that does not allow this."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"

    def headers(self) -> dict[str, str]:
        """OpenAI's SDKs take 409 for a lock that passes, and would ask again and again."""
        return {"x-should-retry": "false"}


class TooSlow(RAGError):
    """The client stopped sending in the middle of its request."""

    status = 408
    type = "invalid_request_error"
    code = "body_timeout"


class TooLarge(RAGError):
    """The body or the file is larger than the limit."""

    status = 413
    type = "invalid_request_error"
    code = "too_large"


class Busy(RAGError):
    """All places are taken, and the queue for them is full."""

    status = 429
    type = "rate_limit_error"
    code = "server_busy"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Whole seconds after which there should be room."""

    def headers(self) -> dict[str, str]:
        """When to ask again."""
        return {"retry-after": str(self.retry_after)}


class Starting(RAGError):
    """A part that the request needs is still loading."""

    status = 503
    code = "starting"

    def headers(self) -> dict[str, str]:
        """Ask the client to come back in a few seconds."""
        return {"retry-after": "3"}


class StorageAway(RAGError):
    """A database does not answer now (its server is away, its file locked): ask again."""

    status = 503
    code = "storage_unavailable"

    def headers(self) -> dict[str, str]:
        """Ask the client to come back in a few seconds."""
        return {"retry-after": "3"}


class StorageLocked(StorageAway):
    """Another program holds the catalog's file; what was to be written was not."""

    code = "storage_locked"


class StorageLost(StorageAway):
    """Vectors or postings are gone or damaged; the backend makes them anew from the catalog."""

    code = "storage_lost"


class CacheUnavailable(RAGError):
    """The server that keeps answers did not do what it was asked."""

    status = 503
    code = "cache_unavailable"


class StorageFull(RAGError):
    """The disk is full."""

    status = 507
    code = "storage_full"


class StorageBroken(RAGError):
    """A data directory is damaged."""

    code = "storage_broken"


class UpstreamError(RAGError):
    """A model server failed.

    `x-should-retry: false` keeps OpenAI's SDKs from multiplying our own retries.
    """

    status = 502
    type = "api_error"
    code = "upstream_error"
    host_failed = True
    """Whether it speaks against the host: a breaker counts it."""
    told = False
    """Whether the log has its cause already: it is then not told again for each request."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after = retry_after
        """Seconds the upstream asked to wait, where it said so."""

    def headers(self) -> dict[str, str]:
        """Tell SDKs not to retry: this backend has done so already. Pass the wait on."""
        after = {} if self.retry_after is None else {"retry-after": f"{self.retry_after:.0f}"}
        return {"x-should-retry": "false"} | after


class UpstreamUnavailable(UpstreamError):
    """No connection to the model server could be made."""

    status = 503
    code = "upstream_unavailable"


class UpstreamTimeout(UpstreamError):
    """One of the four time limits passed."""

    status = 504
    code = "upstream_timeout"


class UpstreamLimited(UpstreamError):
    """The model server's rate limit or queue is full."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    host_failed = False


class UpstreamRefused(UpstreamError):
    """The model server says that the request is wrong; asking again would not help."""

    type = "invalid_request_error"
    host_failed = False

    def __init__(
        self, message: str, *, status: int, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code or "upstream_refused")
        self.status = status

    @property
    def client_status(self) -> int:
        """The upstream's own: the request is wrong in the client's hands too."""
        return self.status


_OF_STATUS = {
    401: "upstream_key_refused",
    403: "upstream_key_refused",
    404: "upstream_not_found",
}


class UpstreamMisconfigured(UpstreamRefused):
    """The key, the address or the model's name that is set here for the upstream is wrong.

    Every request would meet it, and only whoever runs this backend can mend it. So another host of
    the provider may answer, and a client never sees it as a fault of its own key or request:
    neither the upstream's status, nor its code, nor its type.
    """

    type = "api_error"
    code = "upstream_misconfigured"

    def __init__(self, message: str, *, status: int) -> None:
        """`status`: the upstream's."""
        super().__init__(message, status=status, code=_OF_STATUS.get(status, type(self).code))

    @property
    def client_status(self) -> int:
        """A bad gateway."""
        return 502


class UpstreamBroken(UpstreamError):
    """The stream was cut, or what came is not a completion."""

    code = "upstream_broken"
