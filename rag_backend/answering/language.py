"""Which language a question is in, and what kind of utterance it is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag_backend.knowledge.text import fold, is_vietnamese, words
from rag_backend.llm.provider import Message

_GREETING = re.compile(
    r"(xin )?(chao|hello|hi|hey|good (morning|afternoon|evening)|thanks?( you)?|thank you|cam on)"
    r"( (ban|anh|chi|em|ca nha|moi nguoi|there|all|everyone|very much|so much|nhieu))*"
)

# Requests that chat clients make on their own: titles, tags, follow-ups, autocompletion.
_CLIENT_TASKS = (
    re.compile(r"^\s*#{1,3} ?task:", re.IGNORECASE),
    re.compile(r"\b(generate|provide|create|write|suggest)\b.{0,60}\btitle\b", re.I | re.S),
    re.compile(r"\bgenerate\b.{0,60}\b(tags|follow[- ]?ups?|search queries)\b", re.I | re.S),
    re.compile(r"^\s*summari[sz]e (the|this) (chat|conversation)", re.IGNORECASE),
)


def detect_language(text: str) -> str:
    """ "vi" or "en"; anything that is not Vietnamese counts as English."""
    return "vi" if is_vietnamese(text) else "en"


def is_small_talk(text: str) -> bool:
    """A greeting or thanks and nothing else: no document is asked for."""
    return _GREETING.fullmatch(" ".join(words(fold(text)))) is not None


def is_client_task(messages: Sequence[Message]) -> bool:
    """Whether a chat client asks for a title or tags, rather than its user a question."""
    last = str(messages[-1]["content"] or "")
    if messages[-1]["role"] != "user":
        return False
    return _CLIENT_TASKS[0].search(last) is not None or (
        len(messages) > 1 and any(task.search(last[:400]) for task in _CLIENT_TASKS)
    )
