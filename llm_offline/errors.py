"""Errors of this package, each with its HTTP status and OpenAI's error envelope.

LLMOfflineError
├── StartError                 the server cannot start or the model cannot load: one line
├── BadRequest            400  the request cannot be honoured as it stands
│   ├── LoadFailed             the model that was asked for cannot be loaded
│   ├── UnsupportedFeature     valid for OpenAI, not offered here: refused, never ignored
│   └── ContextExceeded        the prompt does not fit; carries both counts in its sentence
├── ClientGone            499  nobody is there any more to read the answer
├── Unauthorized          401
├── NotFound              404
├── Conflict              409  another model is being loaded; carries Retry-After
├── TooLarge              413  the body is larger than the limit
├── QueueFull             429  carries Retry-After
├── GenerationFailed      500  an exception in a step; the server goes on
├── Loading               503  the model is not there yet; carries Retry-After
├── Unloaded              503  there is no model, and none is on its way
├── EncoderUnavailable    503  the encoder cannot be loaded; carries Retry-After
├── OutOfMemory           503  this request did not fit; the server goes on
└── ShuttingDown          503  the server was told to stop
"""

from __future__ import annotations

from typing import Any


class LLMOfflineError(Exception):
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

    def headers(self) -> dict[str, str]:
        """Response headers that belong to the error."""
        return {}


class StartError(LLMOfflineError):
    """The server cannot start, or its model cannot be loaded; `param` is the setting at fault."""


class BadRequest(LLMOfflineError):
    """The request cannot be honoured as it stands."""

    status = 400
    type = "invalid_request_error"


class UnsupportedFeature(BadRequest):
    """A feature of OpenAI's API that this server does not offer."""

    code = "unsupported_parameter"


class LoadFailed(BadRequest):
    """The model that a request names cannot be loaded."""

    code = "load_failed"


class ContextExceeded(BadRequest):
    """The prompt leaves no room for an answer."""

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context: int, *, param: str = "messages") -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens and this server's context is {context}: "
            "shorten the prompt so that at least one token is left for the answer",
            param=param,
        )


class ClientGone(LLMOfflineError):
    """The client went away before its answer; the status is nginx's, for logs and tests."""

    status = 499
    code = "client_closed_request"

    def __init__(self) -> None:
        super().__init__("the client has gone away")


class Unauthorized(LLMOfflineError):
    """No API key, or a wrong one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class NotFound(LLMOfflineError):
    """No such path or model."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class TooLarge(LLMOfflineError):
    """The body is larger than the limit."""

    status = 413
    type = "invalid_request_error"
    code = "too_large"


class _Later(LLMOfflineError):
    """Something that a wait may cure."""

    def __init__(self, message: str, *, retry_after: float = 3) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which asking again is worth it."""

    def headers(self) -> dict[str, str]:
        """When to come back."""
        return {"retry-after": f"{max(1.0, self.retry_after):.0f}"}


class QueueFull(_Later):
    """As many requests wait as may wait."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class Conflict(_Later):
    """Something else is going on that this request would disturb."""

    status = 409
    type = "invalid_request_error"
    code = "load_in_progress"


class GenerationFailed(LLMOfflineError):
    """An exception in a generation step."""

    code = "generation_failed"


class Loading(_Later):
    """The model is still being loaded."""

    status = 503
    code = "loading"


class Unloaded(LLMOfflineError):
    """There is no model, and none is on its way. Its sentence must not say "loading"."""

    status = 503
    code = "unloaded"


class EncoderUnavailable(_Later):
    """The encoder cannot be loaded; the next request tries again."""

    status = 503
    code = "encoder_unavailable"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=30)


class OutOfMemory(LLMOfflineError):
    """The device has not enough memory left for this request."""

    status = 503
    code = "out_of_memory"


class ShuttingDown(LLMOfflineError):
    """The server was told to stop."""

    status = 503
    code = "shutting_down"


def first_line(error: BaseException, otherwise: str | None = None) -> str:
    """Of what a library's error says; where it says nothing, `otherwise` or the error's name."""
    return (str(error).strip() or otherwise or type(error).__name__).splitlines()[0]
