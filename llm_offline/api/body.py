"""A request's JSON → a validated object, or one sentence about what is wrong with it."""

from __future__ import annotations

import json
import math
import re
import reprlib
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from llm_offline.errors import BadRequest, TooLarge, UnsupportedFeature

MOST_BYTES = 16 * 2**20

MOST_NESTED = 200
"""Objects and lists in one another: what looks into a request's values goes a call deeper each."""

MOST_CONTAINERS = 100_000
"""Objects and lists in all: what a body of 16 MiB can hold more takes seconds to read, in which
nothing else is answered."""

_CONTAINERS = (dict, list)
# To the end of the text, if it has no end: it must not be looked for from each of its quotes.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z|\\\Z)'
# One match and no more: each piece that was found would be an object.
_TOO_MANY = re.compile(
    rb'(?:(?:[^"\[{]++|%b)*+[\[{]){%d}' % (_STRING, MOST_CONTAINERS + 1), re.DOTALL
)

_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxdict = 20
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80

# Accepted and without effect on the text: who asks, how long a cache may keep, what may be guessed.
HARMLESS = frozenset(
    {
        "user",
        "metadata",
        "safety_identifier",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
    }
)

# Parameters of OpenAI's API, and of servers like it, that are not offered here: the values that
# change nothing are accepted (clients send them), all others refused. null is always accepted.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}


class Body(BaseModel):
    """Base of all request bodies: strict types; what it does not know is in `model_extra`."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)


B = TypeVar("B", bound=Body)


async def read_body(request: Request, kind: type[B]) -> B:
    """The request's body as `kind`.

    Raises:
        TooLarge: More than `MOST_BYTES`.
        BadRequest: Not JSON, not text that can be encoded, or not as `kind` wants it.
        UnsupportedFeature: A parameter that is not offered.
    """
    payload = parse(await _bytes(request))
    try:
        body = kind.model_validate(payload)
    except ValidationError as error:
        raise _refusal(error) from error
    _refuse_unsupported(body.model_extra or {})
    return body


async def keep_body(request: Request) -> dict[str, Any]:
    """The body's JSON, of which `read_body` can make an object afterwards.

    Raises:
        BadRequest, TooLarge: See `read_body`.
    """
    request.state.body = await _bytes(request)
    return parse(request.state.body)


async def _bytes(request: Request) -> bytes:
    kept: bytes | None = getattr(request.state, "body", None)
    if kept is not None:
        return kept
    taken = bytearray()
    async for piece in request.stream():
        taken += piece
        if len(taken) > MOST_BYTES:
            raise TooLarge(f"the body is larger than {MOST_BYTES // 2**20} MiB")
    return bytes(taken)


def parse(raw: bytes) -> dict[str, Any]:
    """JSON text → object.

    Raises:
        BadRequest: Not UTF-8, not JSON, not an object, with a number that no float holds, with
            more than `MOST_CONTAINERS` or deeper than `MOST_NESTED`, or with half a surrogate
            pair in it.
    """
    return _object(raw, "the body", such_as='{"messages": [...]}', param=None)


def parse_part(text: str, where: str) -> dict[str, Any]:
    """The same for JSON that stands in one of the body's strings, named `where` in errors."""
    return _object(text.encode("utf-8"), where, such_as='{"name": "value"}', param=where)


def _object(raw: bytes, what: str, *, such_as: str, param: str | None) -> dict[str, Any]:
    brackets = raw.count(b"[") + raw.count(b"{")  # in texts, too
    if brackets > MOST_CONTAINERS and _TOO_MANY.match(raw):
        raise BadRequest(
            f"{what} has more than {MOST_CONTAINERS} lists and objects in it", param=param
        )
    try:
        payload = json.loads(raw.decode("utf-8"), parse_constant=no_number, parse_float=finite)
        if b"\\ud" in raw.lower():
            json.dumps(payload, ensure_ascii=False).encode("utf-8")
        # Most bodies have not so many in all, and are not looked through.
        too_deep = brackets > MOST_NESTED and _depth_exceeds(payload, MOST_NESTED)
    except UnicodeEncodeError as error:
        raise BadRequest(
            f"{what} has half of a surrogate pair in it (\\ud800-\\udfff)", param=param
        ) from error
    except RecursionError:
        too_deep = True
    except (json.JSONDecodeError, UnicodeDecodeError, _NoNumber) as error:
        raise BadRequest(f"{what} is not JSON: {error}", param=param) from error
    except ValueError as error:  # Python reads some thousand digits, no more
        raise BadRequest(f"{what} has an integer with too many digits", param=param) from error
    if too_deep:
        raise BadRequest(
            f"{what} is nested too deeply: {MOST_NESTED} levels are the most", param=param
        )
    if not isinstance(payload, dict):
        raise BadRequest(f"{what} must be a JSON object such as {such_as}", param=param)
    return payload


class _NoNumber(ValueError):
    """What stands for a number and is none."""


def no_number(name: str) -> float:
    """For `parse_constant`: raise `ValueError` for NaN and infinities."""
    raise _NoNumber(f"{name[:40]} is not a number that can be read")


def finite(digits: str) -> float:
    """For `parse_float`: raise `ValueError` for what would be read as infinity."""
    number = float(digits)
    return number if math.isfinite(number) else no_number(digits)


def _depth_exceeds(payload: object, most: int) -> bool:
    """Whether lists and objects stand in one another more than `most` times; no recursion."""
    level = [payload] if isinstance(payload, _CONTAINERS) else []
    for _ in range(most):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, _CONTAINERS)
        ]
        if not level:
            return False
    return bool(level)


def _refusal(error: ValidationError) -> BadRequest:
    """The first problem, in one sentence."""
    problem = error.errors(include_url=False)[0]
    # A union reports a branch's name after the field's: only the field means something outside.
    name = str(problem["loc"][0]) if problem["loc"] else None
    # pydantic says "Input should be ...", "List should have ...", a validator of ours the rest.
    _, should, allowed = problem["msg"].partition(" should ")
    if not should:
        allowed = "be " + problem["msg"].removeprefix("Value error, ")
    if name is None:
        return BadRequest(f"the body should {allowed}")
    if problem["type"] == "extra_forbidden":
        return _unknown(".".join(str(part) for part in problem["loc"]))
    if problem["type"] == "missing":
        path = ".".join(str(part) for part in problem["loc"])
        return BadRequest(f"{path} is required", param=name)
    return BadRequest(
        f"{name}={shown(problem['input'])} is not allowed: it should {allowed}", param=name
    )


def shown(value: object) -> str:
    """A value for a message: short, and printable whatever it holds."""
    if isinstance(value, str):
        text = repr(value[:80])
    else:
        # Not the whole of it: that may take a second.
        text = ascii(value) if isinstance(value, float) else _SHORT.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _unknown(name: str) -> BadRequest:
    return BadRequest(
        f"unknown parameter: {shown(name)}", param=name[:80], code="unknown_parameter"
    )


def _refuse_unsupported(extra: dict[str, Any]) -> None:
    for name, value in extra.items():
        if value is None or name in HARMLESS:
            continue
        if name not in NEUTRAL:
            raise _unknown(name)
        if not any(value == same and type(value) is type(same) for same in NEUTRAL[name]):
            raise UnsupportedFeature(
                f"{name}={shown(value)} is not offered by this server: leave {name} out", param=name
            )
