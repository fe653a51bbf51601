"""A follow-up question ("and for motorbikes?") into one that stands alone."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence

from rag_backend.answering.condensing import read_text
from rag_backend.answering.prompting import render
from rag_backend.errors import RAGError
from rag_backend.knowledge.text import content_terms, fold, words
from rag_backend.llm.provider import ChatRequest, LLMProvider, Message

_TIME_LIMIT = 10.0  # seconds
_TURNS = 6  # of the conversation shown to the model
_LONGEST = 400  # characters of a rewritten question; more is not a question

_FOLLOW_UP = re.compile(
    r"^(and|but|so|also|then|what about|how about|con|the con|vay|vay con|the thi|neu vay|roi)\b"
)
_POINTING = re.compile(
    r"\b(it|its|that|this|those|these|them|they|he|she|there|one|same|do|nay|no|vay|tren|ho|ay)\b"
)

log = logging.getLogger(__name__)


async def rewrite(messages: Sequence[Message], local: LLMProvider | None) -> str:
    """The last user message as a question that stands alone.

    Without earlier user messages it is returned as it is. Otherwise the local model rewrites it;
    where there is none, or it fails, an elliptic question is joined to the one before it.
    """
    asked = [str(m["content"]) for m in messages if m["role"] == "user"]
    question = asked[-1] if asked else ""
    if len(asked) < 2 or not _depends_on_history(question):
        return question
    if local is not None:
        rewritten = await _by_model(messages, question, local)
        if rewritten:
            return rewritten
    return f"{asked[-2]}\n{question}"


def _depends_on_history(question: str) -> bool:
    """Whether a question is elliptic: it opens like a follow-up, points back, or is very short."""
    folded = " ".join(words(fold(question)))
    few = len(content_terms(question)) <= 3
    return few or _FOLLOW_UP.search(folded) is not None or _POINTING.search(folded) is not None


async def _by_model(messages: Sequence[Message], question: str, local: LLMProvider) -> str:
    turns = [m for m in messages if m["role"] in ("user", "assistant")][-_TURNS - 1 : -1]
    prompt = render("rewrite", turns=turns, question=question)
    request = ChatRequest(
        messages=({"role": "user", "content": prompt},),
        options={"temperature": 0, "max_tokens": 120},
    )
    try:
        async with asyncio.timeout(_TIME_LIMIT):
            text = await read_text(local, request)
    except (RAGError, TimeoutError) as error:
        log.warning("the local model could not rewrite the question (%s)", error or "too slow")
        return ""
    return text if len(text) <= _LONGEST else ""
