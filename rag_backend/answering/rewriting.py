"""A follow-up question ("and for motorbikes?") into one that stands alone."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from typing import NamedTuple

from rag_backend.answering.condensing import read_text
from rag_backend.answering.language import is_small_talk
from rag_backend.answering.prompting import render
from rag_backend.errors import RAGError
from rag_backend.llm.provider import ChatRequest, LLMProvider, Message
from rag_backend.stop_words import ENGLISH_OR_VIETNAMESE
from rag_backend.telling import severity
from rag_backend.text import (
    content_terms,
    fold,
    has_vietnamese_letters,
    is_unaccented_vietnamese,
    words,
)

PATIENCE = 10.0
"""Seconds for the local model to rewrite a question."""
_TURNS = 6  # of the conversation shown to the model
_LONGEST = 400  # characters of a rewritten question; more is not a question

# How follow-ups begin, and words that point back, in lower case. Vietnamese ones are told by their
# diacritics ("còn" is not "con", "đó" is not "do"), except where the question has none.
_POINTS_BACK = {
    "en": re.compile(
        r"^(and|but|so|also|then|or|what about|how about|why|which one)\b"
        r"|\b(it|its|these|those|them|they|he|she|same|the (former|latter))\b"
        r"|\b(is|was|does|do|did|about|of|for|with|after|before) (that|this)\b|\b(that|this)$"
    ),
    "vi": re.compile(
        r"^(còn|thế còn|vậy|vậy còn|thế thì|nếu vậy|rồi|và|hay|tại sao|vì sao)\b"
        r"|\b(nó|đó|ấy|này|như vậy|như thế|việc trên|điều trên|trường hợp trên)\b|\bthì sao$"
    ),
    "bare": re.compile(
        r"^(con|the con|vay|vay con|the thi|neu vay|roi|va|hay|tai sao|vi sao)\b"
        r"|\b(no|do|ay|nay|nhu vay|nhu the)\b|\bthi sao$"
    ),
}
# How a follow-up turns to something else, at its beginning or its end.
_TURN = re.compile(
    r"^(and|but|so|also|then|or)( (what|how) about)?\b|^(what|how) about\b"
    r"|^((thế|vậy|the|vay) )?(còn|con)\b|^(thế|vậy|the|vay)\b|^(và|va)\b"
    r"|\b(thì sao|thi sao)( (nhỉ|vậy|ạ|nhi|vay|a))?$"
)
_NAMES_NOTHING = frozenset(
    "since until now else more again why when anything thi sao nua vay khi".split()
)
_PLACE = re.compile(r"\b(công ty|nước|cơ quan|đơn vị|nơi|cong ty|nuoc) (này|nay)\b")
"""Points at the reader's own house, not back into the conversation."""

log = logging.getLogger(__name__)


class Rewritten(NamedTuple):
    """A question that stands alone.

    `subject` is what a follow-up names of its own ("and sick leave?"), where it could only be
    joined to the question before it: the older question must not answer for it.
    """

    text: str
    subject: str = ""


async def rewrite(
    messages: Sequence[Message], local: LLMProvider | None, patience: float = PATIENCE
) -> Rewritten:
    """The last user message as a question that stands alone.

    A first question, and one that needs none of the conversation, is returned as it is. Otherwise
    the local model rewrites it; where there is none, or it fails or takes longer than `patience`
    seconds, the question is joined to the last one before it that stood alone.
    """
    asked = [str(m["content"] or "") for m in messages if m["role"] == "user"]
    *earlier, question = asked
    earlier = [text for text in earlier if text.strip() and not is_small_talk(text)]
    if not earlier or not depends_on_history(question):
        return Rewritten(question)
    if local is not None:
        rewritten = await _by_model(messages, question, local, patience)
        if rewritten:
            return Rewritten(rewritten)
    whole = (text for text in reversed(earlier) if not depends_on_history(text))
    return Rewritten(f"{next(whole, earlier[-1])}\n{question}", own_subject(question))


def own_subject(question: str) -> str:
    """What a follow-up that turns to something else names: "And sick leave?" → "sick leave".

    "" where it does not turn ("How long is it?"), or names nothing ("And since when?").
    """
    plain = " ".join(words(question))
    turned = _TURN.sub(" ", plain).strip()
    if turned == plain:
        return ""
    names = any(
        word not in ENGLISH_OR_VIETNAMESE and fold(word) not in _NAMES_NOTHING
        for word in turned.split()
    )
    return turned if names else ""


def depends_on_history(question: str) -> bool:
    """Whether a question is elliptic: it opens like a follow-up, points back, or is a fragment."""
    listed = words(question)
    plain = _PLACE.sub(" ", " ".join(listed))
    if is_unaccented_vietnamese(question):
        languages = ["bare"]
    elif has_vietnamese_letters(question):
        languages = ["vi"]
    else:
        languages = ["en", "vi"]  # "Còn xe máy thì sao?" has no letter that only Vietnamese has
    if any(_POINTS_BACK[language].search(plain) for language in languages):
        return True
    return len(content_terms(question)) <= 1 or len(listed) <= 3


async def _by_model(
    messages: Sequence[Message], question: str, local: LLMProvider, patience: float
) -> str:
    """The model's question; "" when it fails, or says something that is no such question."""
    turns = [m for m in messages if m["role"] in ("user", "assistant") and m["content"]]
    prompt = render("rewrite", turns=turns[-_TURNS - 1 : -1], question=question)
    request = ChatRequest(
        messages=({"role": "user", "content": prompt},),
        options={"temperature": 0, "max_tokens": 120},
    )
    try:
        async with asyncio.timeout(patience):
            text = await read_text(local, request)
    except (RAGError, TimeoutError) as error:
        said = "the local model could not rewrite the question (%s)"
        log.log(severity(error), said, str(error) or "too slow")
        return ""
    line = text.strip("\"'“”« »\n")
    told = {term for turn in messages for term in content_terms(str(turn["content"] or ""))}
    about_it = not told.isdisjoint(content_terms(line))
    return line if about_it and len(line) <= _LONGEST and "\n" not in line else ""
