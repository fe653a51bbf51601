"""The messages of a conversation: what OpenAI's clients send → what chat templates take."""

from __future__ import annotations

from typing import Any

from llm_offline.api.body import parse_part, shown
from llm_offline.engine.text.model_text import Message
from llm_offline.errors import BadRequest, UnsupportedFeature

ROLES = ("system", "developer", "user", "assistant", "tool")
# Fields of an answer that clients send back with the history; they do not change the prompt.
_ECHOED = frozenset(
    {
        "role",
        "content",
        "name",
        "refusal",
        "annotations",
        "citations",
        "reasoning_content",
        "parsed",  # what the SDK made of an answer, which it sends back with it
        # What gateways and frameworks for agents add.
        "id",
        "cache_control",
        "is_error",
        "tool_name",
    }
)
# What models and clients write where a function has no parameters.
_NO_ARGUMENTS = ("", "null", "[]")
# Fields that messages of one role have, and no others.
_OWN = {"assistant": "tool_calls", "tool": "tool_call_id"}


def plain_messages(raw: list[dict[str, Any]], param: str = "messages") -> list[Message]:
    """OpenAI's messages → role and text, content parts joined.

    Raises:
        BadRequest: An unknown role, or content that is not text.
        UnsupportedFeature: Images, audio, files or tool calls.
    """
    return [_plain(message, f"{param}[{number}]") for number, message in enumerate(raw)]


def _plain(message: dict[str, Any], where: str) -> Message:
    role = message.get("role")
    if role not in ROLES:
        raise BadRequest(
            f"{where}.role={shown(role)} is not allowed: it should be one of {', '.join(ROLES)}",
            param=where,
        )
    for name, value in message.items():
        echoed = name in _ECHOED or name == _OWN.get(str(role))
        if not echoed and value not in (None, [], {}):
            raise UnsupportedFeature(
                f"{where}.{name[:80]} is not offered by this server: leave it out", param=where
            )
    if role == "tool":
        return _tool_result(message, where)
    if role == "assistant" and message.get("tool_calls"):
        content = message.get("content")
        said = "" if content is None else _text(content, f"{where}.content")
        calls = _calls(message["tool_calls"], f"{where}.tool_calls")
        return {"role": role, "content": said, "tool_calls": calls}
    # The older templates know no developer, which is the newer name of the system.
    name = "system" if role == "developer" else role
    return {"role": name, "content": _text(message.get("content"), f"{where}.content")}


def _tool_result(message: dict[str, Any], where: str) -> Message:
    call = message.get("tool_call_id")
    if not isinstance(call, str):
        raise BadRequest(f"{where}.tool_call_id is required: the id of the call", param=where)
    content = _text(message.get("content"), f"{where}.content")
    return {"role": "tool", "tool_call_id": call, "content": content}


def _calls(raw: object, where: str) -> list[dict[str, Any]]:
    """Calls as templates want them: their arguments as an object, not as its text."""
    if not isinstance(raw, list):
        raise _no_call(where)
    return [_call(call, f"{where}[{number}]") for number, call in enumerate(raw)]


def _call(raw: object, where: str) -> dict[str, Any]:
    call = raw if isinstance(raw, dict) else {}
    function = call.get("function")
    given = function if isinstance(function, dict) else {}
    id_, name, arguments = call.get("id"), given.get("name"), given.get("arguments")
    if not (isinstance(id_, str) and isinstance(name, str) and isinstance(arguments, str)):
        raise _no_call(where)
    nothing = arguments.strip() in _NO_ARGUMENTS
    found = {} if nothing else parse_part(arguments, f"{where}.function.arguments")
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": found}}


def _no_call(where: str) -> BadRequest:
    return BadRequest(
        f'{where} must be such as {{"id": "call_1", "type": "function", "function": '
        '{"name": "f", "arguments": "{}"}}',
        param=where,
    )


def _text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequest(f"{where} must be text or a list of text parts", param=where)
    return "\n".join(_part(part, f"{where}[{number}]") for number, part in enumerate(content))


def _part(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if isinstance(part, dict) and isinstance(kind, str) and kind != "text":
        raise UnsupportedFeature(
            f"{where}: parts of type {shown(kind)} are not offered by this server, text is",
            param=where,
        )
    raise BadRequest(f'{where} must be {{"type": "text", "text": ...}}', param=where)
