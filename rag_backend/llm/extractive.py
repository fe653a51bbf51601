"""A provider without a model: the passages' best sentences, verbatim, each with its marker."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

from rag_backend.errors import UnsupportedFeature
from rag_backend.llm.extracting import Pick, first_sentence, pick
from rag_backend.llm.named_parts import asks_for_the_whole, named_clause, named_part
from rag_backend.llm.provider import ChatRequest, Chunk, Grounding
from rag_backend.llm.streams import estimate_tokens
from rag_backend.text import language_of
from rag_backend.utterances import is_greeting, is_thanks

_DIRECT = 0.35
"""Least share of the question's weight in a sentence that is shown as an answer. On XQuAD (five
passages by word overlap) 3 % of the English and 1 % of the Vietnamese answerable questions fall
below it, and 61 % and 35 % of those whose passage was taken away."""
_PIECE = re.compile(r"(?:\S+\s*){1,6}")
_SAYINGS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "greeting": "Hello! I answer questions from your documents and show the sources. "
        "What would you like to know?",
        "thanks": "You are welcome! Ask me anything else about your documents.",
        "nothing": "There is no document here that could answer this. Add some with "
        "`python -m ingest PATH`; for answers without documents, switch a language model on "
        "(LOCAL_LLM_API_URL or OPENAI_API_KEY).",
        "unreached": "No language model answered, and no document matches this. "
        "Check the model server (LOCAL_LLM_API_URL or OPENAI_API_KEY), then ask again.",
        "nearest": "No sentence in the documents answers this directly. The nearest one:",
    },
    "vi": {
        "greeting": "Xin chào! Tôi trả lời câu hỏi dựa trên tài liệu của bạn và nêu rõ nguồn. "
        "Bạn muốn hỏi gì?",
        "thanks": "Không có gì! Bạn cứ hỏi thêm về tài liệu của mình.",
        "nothing": "Ở đây chưa có tài liệu nào trả lời được câu hỏi này. Hãy thêm tài liệu bằng "
        "lệnh `python -m ingest PATH`; muốn hỏi đáp không cần tài liệu thì bật một mô hình ngôn "
        "ngữ (LOCAL_LLM_API_URL hoặc OPENAI_API_KEY).",
        "unreached": "Không có mô hình ngôn ngữ nào trả lời, và không có tài liệu nào phù hợp. "
        "Hãy kiểm tra máy chủ mô hình (LOCAL_LLM_API_URL hoặc OPENAI_API_KEY) rồi hỏi lại.",
        "nearest": "Không có câu nào trong tài liệu trả lời trực tiếp. Câu gần nhất:",
    },
}


class Extractive:
    """Answers from `request.grounding` alone.

    Temperature, seed and the like change nothing in what is not random; `max_tokens` (estimated)
    and `stop` are honoured.
    """

    def __init__(self, name: str, *, stands_in: bool = False) -> None:
        """`stands_in`: it is asked because a configured model failed, and says so."""
        self._name = name
        self._helpless = "unreached" if stands_in else "nothing"

    @property
    def name(self) -> str:
        """The name it is registered under."""
        return self._name

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """See LLMProvider.

        Raises:
            UnsupportedFeature: the request needs a model (tools, a JSON format, logprobs).
        """
        _refuse_what_needs_a_model(request.options)
        text, finish_reason = _within_limits(self._answer(request), request.options)
        head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self._name,
            "provider": self._name,
        }
        for delta in _deltas(text):
            yield {**head, "choices": [_choice(delta)]}
        yield {**head, "choices": [_choice({}, finish_reason)]}
        yield {**head, "choices": [], "usage": _usage(request, text)}

    def _answer(self, request: ChatRequest) -> str:
        if request.grounding is None or not request.grounding.passages:
            return self._without_documents(request)
        named = named_clause(request.grounding)
        if not named and asks_for_the_whole(request.grounding.question):
            named = named_part(request.grounding)
        if named:
            return named
        picks = pick(request.grounding)
        if any(p.coverage >= _DIRECT for p in picks):
            return "\n".join(f"{p.text} [{p.number}]" for p in picks)
        return named_part(request.grounding) or _nearest(request.grounding, picks)

    def _without_documents(self, request: ChatRequest) -> str:
        said = next((m for m in reversed(request.messages) if m["role"] == "user"), {})
        question = str(said.get("content") or "")
        language = request.grounding.language if request.grounding else language_of(question)
        sayings = _SAYINGS.get(language, _SAYINGS["en"])
        if is_greeting(question):
            return sayings["greeting"]
        return sayings["thanks" if is_thanks(question) else self._helpless]


def _nearest(grounding: Grounding, picks: Sequence[Pick]) -> str:
    """One sentence, called what it is."""
    nearest = max(picks, key=lambda p: p.coverage, default=first_sentence(grounding.passages))
    best = grounding.passages[0]
    text, number = (nearest.text, nearest.number) if nearest else (best.text.strip(), best.number)
    sayings = _SAYINGS.get(grounding.language, _SAYINGS["en"])
    return f"{sayings['nearest']} {text} [{number}]"


def wants_json(options: Mapping[str, Any]) -> bool:
    """Whether `response_format` asks for anything but text."""
    form = options.get("response_format")
    return isinstance(form, Mapping) and form.get("type", "text") != "text"


def features(options: Mapping[str, Any]) -> list[str]:
    """The parameters given that ask for more than text."""
    asked = {
        "tools": bool(options.get("tools")),
        "response_format": wants_json(options),
        "logprobs": bool(options.get("logprobs")),
    }
    return [parameter for parameter, given in asked.items() if given]


def needs_model(options: Mapping[str, Any]) -> str | None:
    """The parameter that no fixed or extracted text can honour; None where there is none."""
    return next(iter(features(options)), None)


def _refuse_what_needs_a_model(options: Mapping[str, Any]) -> None:
    parameter = needs_model(options)
    if parameter is not None:
        raise UnsupportedFeature(
            f"{parameter} needs a language model, and none answers: set LOCAL_LLM_API_URL or "
            "OPENAI_API_KEY.",
            param=parameter,
        )


def _within_limits(text: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """The text up to a stop string or the token limit, and the finish reason."""
    stop = options.get("stop") or ()
    for ending in (stop,) if isinstance(stop, str) else stop:
        text = text.partition(ending)[0]
    limit = options.get("max_completion_tokens") or options.get("max_tokens")
    if limit is None or estimate_tokens(text) <= limit:
        return text, "stop"
    kept = ""
    for piece in re.findall(r"\S+\s*", text):
        if estimate_tokens(kept + piece) > limit:
            break
        kept += piece
    return kept.rstrip(), "length"


def _deltas(text: str) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": ""}
    for piece in _PIECE.findall(text):
        yield {"content": piece}


def _choice(delta: Mapping[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _usage(request: ChatRequest, text: str) -> dict[str, int]:
    prompt = sum(estimate_tokens(str(m.get("content") or "")) for m in request.messages)
    completion = estimate_tokens(text)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
