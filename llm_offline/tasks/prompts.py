"""What the model is told. The material comes last, so that calls share what stands before it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

# Letters that no other large language has; one in seven of a Vietnamese text's is one.
_VIETNAMESE = re.compile(r"[ơưƠƯ\u1ea0-\u1ef9]")
_LETTER = re.compile(r"[^\W\d_]")
_SAMPLE = 20_000
_LEAST_SHARE = 0.03


def is_vietnamese(text: str) -> bool:
    """Whether a text is written in Vietnamese, with its diacritics."""
    sample = unicodedata.normalize("NFC", text[:_SAMPLE])
    letters = len(_LETTER.findall(sample))
    return len(_VIETNAMESE.findall(sample)) > _LEAST_SHARE * letters


def summary(text: str, words: int, *, vietnamese: bool) -> str:
    """A text as a whole."""
    if vietnamese:
        return f"Tóm tắt văn bản dưới đây bằng tiếng Việt, trong khoảng {words} từ. {_VI}{text}"
    return f"Summarise the text below in about {words} words. {_EN}{text}"


def part_summary(text: str, words: int, *, vietnamese: bool) -> str:
    """One of the parts of a text that is longer than the context."""
    if vietnamese:
        return (
            "Dưới đây là một phần của một văn bản dài. Tóm tắt phần này bằng tiếng Việt, trong "
            f"khoảng {words} từ. {_VI}{text}"
        )
    return (
        f"Below is one part of a long text. Summarise this part in about {words} words. {_EN}{text}"
    )


def joint_summary(text: str, words: int, *, vietnamese: bool) -> str:
    """The parts' summaries, in their order."""
    if vietnamese:
        return (
            "Dưới đây là các bản tóm tắt từng phần của một văn bản, theo đúng thứ tự. Viết từ đó "
            f"một bản tóm tắt chung bằng tiếng Việt, trong khoảng {words} từ. {_VI}{text}"
        )
    return (
        "Below are summaries of the parts of one text, in their order. Write one summary of the "
        f"whole from them, in about {words} words. {_EN}{text}"
    )


_EN = (
    "Write in the language of the text. Copy names, numbers and dates as they stand. Add nothing "
    "that the text does not say. Write the summary only.\n\nText:\n"
)
_VI = (
    "Giữ nguyên tên riêng, con số và ngày tháng. Không thêm điều gì mà văn bản không nói. Chỉ viết "
    "bản tóm tắt.\n\nVăn bản:\n"
)


def selection(question: str, sentences: Sequence[str]) -> str:
    """Which sentences a question needs; the answer is a list of their numbers."""
    numbered = "\n".join(f"[{number}] {said}" for number, said in enumerate(sentences, 1))
    return (
        "Choose from the numbered sentences below only those that help to answer the question. "
        "Leave everything else out. Write their numbers as a JSON list, the most helpful first, "
        "such as [3, 1]. If no sentence helps, write [].\n\n"
        f"Question: {question}\n\nSentences:\n{numbered}"
    )


def extraction(text: str, schema: Mapping[str, Any]) -> str:
    """The values that a text gives for a schema's properties."""
    written = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return (
        "Extract the values that the JSON schema describes from the text below. Take them from "
        "the text only, in its own words and language. A value that the text does not give is "
        f"null. Write the JSON object only.\n\nSchema:\n{written}\n\nText:\n{text}"
    )


def transcript(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation as a text, so that the model reads it and does not go on with it."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
