"""Every failure as OpenAI's error envelope."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from rag_backend.api.limiting import Interrupted
from rag_backend.errors import BadRequest, RAGError, Starting, StorageFull
from rag_backend.notes import notes

# Names of a union's branches and of a key's checks, which pydantic adds to the path of a field.
_BRANCH = re.compile(
    r"(\[key\]|str|int|float|bool|constrained-\w+|(list|dict|function-\w+|tuple)\[.*\])$"
)


def install(app: FastAPI) -> None:
    """Map what routes raise to its envelope; what nobody expected is the middleware's."""
    app.add_exception_handler(RAGError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _routing)


def respond(error: RAGError) -> JSONResponse:
    """The error as a client sees it."""
    return JSONResponse(error.envelope(), error.client_status, error.headers())


def unexpected() -> RAGError:
    """What a client sees of a defect of ours."""
    return RAGError("Internal error. The backend's log has the details under this request's id.")


def stopping() -> RAGError:
    """What a client sees whose answer was not done when the server had to stop."""
    return Starting("The backend is stopping: ask again in a moment.", code="stopping")


async def _known(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RAGError)  # noqa: S101
    notes().error = type(error).__name__
    return respond(error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    problem = _most_telling(error.errors())
    if problem["loc"] == ("body",) and "json" not in request.headers.get("content-type", ""):
        return await _known(request, _not_sent_as_json())
    return await _known(request, explained(problem))


def _most_telling(problems: Sequence[Any]) -> Any:
    """The first problem; of a union, that of the branch which takes such a value at all."""
    first, field = problems[0], _param(problems[0])
    same = (problem for problem in problems if _param(problem) == field)
    return next((p for p in same if not p["type"].endswith("_type")), first)


def _param(problem: Mapping[str, Any]) -> str | None:
    """The field's path, such as "messages.0.role"; it begins with "body", "query" or "path"."""
    places = [str(place) for place in problem["loc"][1:]]
    return ".".join(place for place in places if not _BRANCH.match(place)) or None


def explained(problem: Mapping[str, Any]) -> BadRequest:
    """One of pydantic's problems as one sentence."""
    if problem["type"] == "json_invalid":
        reason = problem.get("ctx", {}).get("error", "")
        return BadRequest(f"The body is not valid JSON: {reason}.", code="invalid_json")
    if problem["loc"] == ("body",):
        return BadRequest("The body must be a JSON object.")
    param = _param(problem)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if message.startswith("Expected UploadFile"):
        message = "It must be a file, with a file name"
    return BadRequest(f"{param or 'body'}: {message}.", param=param)


def _not_sent_as_json() -> BadRequest:
    return BadRequest("Send a JSON object as the body, with `Content-Type: application/json`.")


async def _routing(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    if isinstance(error, Interrupted):
        return await _known(request, error.error)
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
        full = StorageFull("The disk of the directory for temporary files is full.")
        return await _known(request, full)
    known = {
        404: ("There is no such path; see /docs for those there are.", "unknown_url"),
        405: ("This path does not take that method; see /docs.", "method_not_allowed"),
    }
    message, code = known.get(error.status_code, (str(error.detail), None))
    failure = BadRequest(message, code=code)
    notes().error = "BadRequest"
    return JSONResponse(failure.envelope(), error.status_code, error.headers)
