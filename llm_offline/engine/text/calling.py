"""Calls of functions as models write them, as a grammar in llguidance's dialect of Lark.

`{"name": ..., "parameters": {...}}` with `; ` between two of them, as Llama 3 does, or
`{"name": ..., "arguments": {...}}` each between `<tool_call>` and `</tool_call>`, as Qwen and
others do. Where a call is not required, a text may begin in any way but those, and go on to marked
calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llm_offline.errors import BadRequest

OPENS, CLOSES = "<tool_call>", "</tool_call>"
_MOST = 16
"""Calls in one text: a model that has lost its way must come to an end."""

_KEYS = ("parameters", "arguments")
# A text that begins with a bracket would be a call; see `api.calls`.
_WORDS = r"""
words: FIRST?
FIRST: /\s*[^\s{\[](.|\n)*/
"""
_WORDS_AND_MARKS = r"""
words: FIRST? (mark REST?)*
FIRST: /\s*[^\s{\[](.|\n)*/
REST: /(.|\n)+/
"""


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's name, and the JSON schema that its arguments follow."""

    name: str
    schema: Mapping[str, Any]

    def arguments(self) -> dict[str, Any]:
        """The schema, of objects alone: arguments are one, also where it speaks of other values.

        Raises:
            BadRequest: No object can be of it.
        """
        kinds = self.schema.get("type", "object")
        values = self.schema.get("enum", [self.schema.get("const", {})])
        if (
            "object" not in (kinds if isinstance(kinds, list) else [kinds])
            or not isinstance(values, list)
            or not any(isinstance(value, Mapping) for value in values)
        ):
            raise BadRequest(
                f'tools: the schema of the function "{self.name}" allows no object, which the '
                'arguments of a call are: let its "type" be "object"',
                param="tools",
            )
        return {**self.schema, "type": "object"}


def lark(
    functions: Sequence[Signature],
    *,
    several: bool,
    otherwise: Mapping[str, Any] | Literal["text"] | None,
    marked: bool,
    marks: Iterable[int] = (),
    space: str,
    spaces: int = 2,
) -> str:
    """The grammar of a text that calls some of `functions`.

    Args:
        functions: At least one.
        several: Whether more than one call may be made; unmarked ones beside a schema are single.
        otherwise: What the text may be in place of calls: of a JSON schema, any text, or nothing.
        marked: Whether the model has the tokens `<tool_call>` and `</tool_call>`.
        marks: Other tokens that stand for themselves and may be in a text, `<think>` for example.
        space: A regular expression of the white space in JSON.
        spaces: Most spaces and line ends between two parts of a call.
    """
    if isinstance(otherwise, Mapping):
        starts, rules = ["either"], _either(functions, otherwise, space)
    else:
        starts, rules = ["bare"], _bare(several)
    if marked:
        rules += _tags(several)
    if otherwise == "text":
        starts.append("told")
        rules += _told(marks, tagged=marked)
    elif marked:
        starts.append("tags")
    if marked or "bare" in starts:
        rules += _calls(functions, space)
    space_rule = rf"SP: /[ \n]{{1,{spaces}}}/"
    return "\n".join(["%llguidance {}", f"start: {' | '.join(starts)}", *rules, space_rule, ""])


def _either(functions: Sequence[Signature], answer: Mapping[str, Any], space: str) -> list[str]:
    """A call as it is, or an answer.

    One grammar of JSON: of two, the lexer would give all white space to one of them.
    """
    return [f"either: SP? {_json(_any_of(functions, answer), space)}"]


def _bare(several: bool) -> list[str]:
    """Calls as they are."""
    more = _more('";" SP? call', several)
    return [f"bare: SP? call {more} SP?"]


def _tags(several: bool) -> list[str]:
    """Calls between marks."""
    return [f"tags: tag {_more('tag', several)} SP?", f"tag: {OPENS} SP? call SP? {CLOSES}"]


def _more(what: str, several: bool) -> str:
    """What may follow the first call."""
    return f"(SP? {what}){{0,{_MOST - 1}}}" if several else ""


def _told(marks: Iterable[int], *, tagged: bool) -> list[str]:
    """Words; `tagged`: marked calls may come after them."""
    some = ",".join(map(str, sorted(marks)))
    words = f"{_WORDS_AND_MARKS}mark: <[{some}]>" if some else _WORDS
    return ["told: words tags?" if tagged else "told: words", words]


def _calls(functions: Sequence[Signature], space: str) -> list[str]:
    """One call, of any of the functions."""
    calls = [_call(number, function, space) for number, function in enumerate(functions)]
    return [f"call: {' | '.join(f'call_{number}' for number in range(len(calls)))}", *calls]


def _call(number: int, function: Signature, space: str) -> str:
    """The rules of one function's calls."""
    name = _literal(json.dumps(function.name, ensure_ascii=False))
    named = f'"{{" SP? {_literal(json.dumps("name"))} SP? ":" SP? {name}'
    keys = " | ".join(_literal(json.dumps(key)) for key in _KEYS)
    given = f'SP? "," SP? ({keys}) SP? ":" SP? given_{number} SP? "}}"'
    return f"call_{number}: {named} {given}\ngiven_{number}: {_json(function.schema, space)}"


def _any_of(functions: Sequence[Signature], answer: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of calls and of answers."""
    roots = {"answer": answer} | {f"call_{n}": one.schema for n, one in enumerate(functions)}
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": one.name}, key: {"$ref": f"#/$defs/call_{number}"}},
            "required": ["name", key],
            "additionalProperties": False,
        }
        for number, one in enumerate(functions)
        for key in _KEYS
    ]
    return {
        "anyOf": [{"$ref": "#/$defs/answer"}, *calls],
        "$defs": {name: _moved(schema, f"#/$defs/{name}") for name, schema in roots.items()},
    }


def _moved(schema: Any, root: str) -> Any:
    """A schema whose references hold where it stands now, at `root`."""
    if isinstance(schema, list):
        return [_moved(part, root) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _moved(part, root) for key, part in schema.items()}
    if isinstance(moved.get("$id"), str):
        del moved["$id"]  # it would make a document of its own, where references begin anew
    reference = moved.get("$ref")
    # What names an anchor ("#args") finds it anywhere.
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved["$ref"] = root + reference[1:]
    return moved


def _json(schema: Mapping[str, Any], space: str) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': {'whitespace_pattern': space}})}"


def _literal(text: str) -> str:
    """A string of the grammar, which is written as JSON writes it."""
    return json.dumps(text, ensure_ascii=False)
