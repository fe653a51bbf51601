"""Every failure as OpenAI's error envelope."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from rag_backend.errors import BadRequest, RAGError


def install(app: FastAPI) -> None:
    """Map what routes raise to its envelope; what nobody expected is the middleware's."""
    app.add_exception_handler(RAGError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _routing)


def unexpected() -> RAGError:
    """What a client sees of a defect of ours."""
    return RAGError("Internal error. The backend's log has the details under this request's id.")


async def _known(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RAGError)  # noqa: S101
    return JSONResponse(error.envelope(), error.status, error.headers())


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    return await _known(request, first_problem(error.errors()))


def first_problem(problems: Any) -> BadRequest:
    """Pydantic's first problem as one sentence and a `param` such as "messages.0.role"."""
    problem = problems[0]
    place = [str(part) for part in problem["loc"] if part not in ("body", "query", "path")]
    if problem["type"] == "json_invalid":
        return BadRequest("The body is not valid JSON.", code="invalid_json")
    param = ".".join(part for part in place if not part.startswith("function-")) or None
    message = str(problem["msg"]).removeprefix("Value error, ")
    return BadRequest(f"{param or 'body'}: {message}.", param=param)


async def _routing(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    known = {
        404: ("There is no such path; see /docs for those there are.", "unknown_url"),
        405: ("This path does not take that method; see /docs.", "method_not_allowed"),
    }
    message, code = known.get(error.status_code, (str(error.detail), None))
    failure = BadRequest(message, code=code)
    return JSONResponse(failure.envelope(), error.status_code)
