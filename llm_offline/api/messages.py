"""The messages of a conversation: what OpenAI's clients send → what chat templates take."""

from __future__ import annotations

import json
from typing import Any

from llm_offline.api.body import shown
from llm_offline.engine.text import Message
from llm_offline.errors import BadRequest, UnsupportedFeature

ROLES = ("system", "developer", "user", "assistant")
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
    }
)


def plain_messages(raw: list[dict[str, Any]], param: str = "messages") -> list[Message]:
    """OpenAI's messages → role and text, content parts joined.

    Raises:
        BadRequest: An unknown role, or content that is not text.
        UnsupportedFeature: Images, audio, files or tool calls.
    """
    return [_plain(message, f"{param}[{number}]") for number, message in enumerate(raw)]


def _plain(message: dict[str, Any], where: str) -> Message:
    role = message.get("role")
    if role == "tool":
        return _tool_result(message, where)
    if role not in ROLES:
        raise BadRequest(
            f"{where}.role={shown(role)} is not allowed: it should be one of {', '.join(ROLES)}",
            param=where,
        )
    for name, value in message.items():
        echoed = name in _ECHOED or (name == "tool_calls" and role == "assistant")
        if not echoed and value not in (None, [], {}):
            raise UnsupportedFeature(
                f"{where}.{name} is not offered by this server: leave it out", param=where
            )
    if role == "assistant" and message.get("tool_calls"):
        said = "" if message.get("content") is None else _text(message["content"], where)
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
    found = []
    for call in raw if isinstance(raw, list) else [None]:
        function = call.get("function") if isinstance(call, dict) else None
        try:
            arguments = json.loads(function["arguments"])  # type: ignore[index]
            found.append(
                {
                    "id": str(call["id"]),  # type: ignore[index]
                    "type": "function",
                    "function": {"name": str(function["name"]), "arguments": arguments},  # type: ignore[index]
                }
            )
        except (TypeError, KeyError, ValueError) as error:
            raise BadRequest(
                f'{where} must be [{{"id", "type", "function": {{"name", "arguments"}}}}] with '
                "arguments that are JSON",
                param=where,
            ) from error
    return found


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
