"""A question as people put it into what to search for (`rewrite_query` of OpenAI's search)."""

from __future__ import annotations

import asyncio
import logging
import re

from rag_backend.answering.condensing import read_text
from rag_backend.answering.prompting import render
from rag_backend.errors import RAGError
from rag_backend.llm.provider import ChatRequest, LLMProvider
from rag_backend.text import content_terms, nfc
from rag_backend.utterances import without_courtesies

PATIENCE = 10.0
"""Seconds for the local model."""
_LONGEST = 400  # characters of a query; more is none

# Question words at either end, each cut while it is found; courtesies have gone before.
_OPENINGS = re.compile(
    r"(?:(?:what|who|whom|whose|which|when|where|why|how)(?:'s| (?:much|many|long|often|far|soon))?"
    r"(?: (?:is|are|was|were|do|does|did|can|could|should|must|may|will|would))?"
    r"(?: (?:the|a|an|i|we|you|they|it|there))*"
    r"|(?:is|are|do|does|did|can|could|should|may|must|will|would) (?:the|i|we|you|they|it|there)"
    r"|khi nào|bao giờ|bao lâu|bao nhiêu|tại sao|vì sao|làm sao|làm thế nào|ở đâu|có phải"
    r")(?=[\s,.!:?]|$)[\s,.!:]*",
    re.IGNORECASE,
)
_ENDINGS = re.compile(
    r"[\s,.!?]*(?:(?<=[\s,.!?])(?:thế"
    r"|(?:(?:là|gồm|có|được|phải|như|thì|những) )*"
    r"(?:bao nhiêu|bao lâu|gì|ai|ở đâu|đâu|khi nào|bao giờ|thế nào|ra sao|làm sao|nào|mấy"
    r"|vì sao|tại sao|không|chưa)))?[\s,.!?]*$",
    re.IGNORECASE,
)

log = logging.getLogger(__name__)


async def search_query(question: str, local: LLMProvider | None, patience: float = PATIENCE) -> str:
    """What to search for when this is asked.

    The local model writes it; where there is none, or it fails, takes longer than `patience`
    seconds or writes something else, greetings, courtesies and question words are cut off.
    """
    if local is not None:
        written = await _by_model(question, local, patience)
        if written:
            return written
    return stripped(question)


def stripped(question: str) -> str:
    """A question without what says nothing about its subject; itself where nothing else is left."""
    text = nfc(without_courtesies(question)).strip()
    if len(text) > _LONGEST:
        return text
    for pattern, at_its_end in ((_OPENINGS, False), (_ENDINGS, True)):
        while found := pattern.search(text) if at_its_end else pattern.match(text):
            left = text[: found.start()] if at_its_end else text[found.end() :]
            if left == text or not content_terms(left):
                break
            text = left
    return text


async def _by_model(question: str, local: LLMProvider, patience: float) -> str:
    """The model's query; "" when it fails, or says something that is none."""
    request = ChatRequest(
        messages=({"role": "user", "content": render("search", question=question)},),
        options={"temperature": 0, "max_tokens": 80},
    )
    try:
        async with asyncio.timeout(patience):
            text = await read_text(local, request)
    except (RAGError, TimeoutError) as error:
        log.warning("the local model could not rewrite the query (%s)", error or "too slow")
        return ""
    line = text.strip("\"'“”« »\n")
    about_it = not set(content_terms(question)).isdisjoint(content_terms(line))
    return line if about_it and len(line) <= _LONGEST and "\n" not in line else ""
