"""Which language a text is in, and what kind of utterance it is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag_backend.llm.provider import Message
from rag_backend.text import nfc
from rag_backend.utterances import is_greeting, is_thanks

# Requests that chat clients make on their own: titles, tags, follow-ups, autocompletion.
_CLIENT_TASK = re.compile(r"^\s*#{1,3} ?task:", re.IGNORECASE)
_ABOUT_THE_CHAT = re.compile(
    r"\b(generate|provide|create|write|suggest|give|summari[sz]e)\b.{0,120}"
    r"\b(this|the|our|following|above) (\w+ )?(chat|conversation|dialogue|discussion)\b",
    re.IGNORECASE | re.DOTALL,
)

_UNKNOWN = (
    re.compile(
        r"(?:(?:i'm |i am )?(?:sorry|unfortunately|however)[,.]? +(?:but +)?)*"
        r"(?:i (?:do not|don't|cannot|can't|could not|couldn't) (?:know|find|answer|say|determine)"
        r"|(?:the |these |your )?(?:numbered |provided |given |available )*"
        r"(?:sources?|documents?|passages?|context)(?: provided| given| above)? "
        r"(?:do(?:es)?|did)(?: not|n't) "
        r"(?:contain|mention|say|state|specify|include|provide|cover|answer|give)"
        r"|(?:there is )?no (?:\w+ )?information\b)"
    ),
    re.compile(
        r"(?:(?:rất )?(?:xin lỗi|tiếc|tuy nhiên)[,.]? +)*"
        r"(?:tôi (?:không|chưa) "
        r"(?:biết|rõ|tìm thấy|thể (?:trả lời|tìm thấy|xác định)|có (?:đủ )?thông tin)"
        r"|(?:hiện |trong |theo )?(?:các |những )?(?:tài liệu|nguồn|đoạn trích|ngữ cảnh)"
        r"(?: tài liệu)?(?: được cung cấp| đã cho| trên| này| hiện có)?,? (?:không|chưa) "
        r"(?:có (?:đủ )?(?:thông tin|nội dung|câu trả lời|dữ liệu|đề cập)|chứa thông tin|đề cập|nêu"
        r"|nói|cung cấp|nhắc)"
        r"|không (?:có|tìm thấy) (?:đủ )?(?:thông tin|câu trả lời))"
    ),
)


def is_small_talk(text: str) -> bool:
    """A greeting or thanks and nothing else: no document is asked for."""
    return is_greeting(text) or is_thanks(text)


def is_client_task(messages: Sequence[Message]) -> bool:
    """Whether a chat client asks for a title or tags, rather than its user a question."""
    if messages[-1]["role"] != "user":
        return False
    last = str(messages[-1]["content"] or "")[:400]
    if _CLIENT_TASK.search(last):
        return True
    return len(messages) > 1 and _ABOUT_THE_CHAT.search(last) is not None


def says_unknown(text: str) -> bool:
    """Whether an answer, or a sentence of it, begins by saying that the sources do not say."""
    plain = nfc(text[:200]).casefold().replace("’", "'").lstrip()
    return any(pattern.match(plain) for pattern in _UNKNOWN)
