"""What a text looks like in OpenAI's answers: choices and log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_offline.engine.interface import TextDelta, TokenLogprob
from llm_offline.engine.text.detokenizing import Detokenizer
from llm_offline.loaded import Text


class ChatShape:
    """`choices` of chat completions."""

    def __init__(self, text: Text) -> None:
        self._text = text

    def opening(self, number: int) -> dict[str, Any]:
        """The first choice of a stream, before any text."""
        delta = {"role": "assistant", "content": ""}
        return {"index": number, "delta": delta, "logprobs": None, "finish_reason": None}

    def delta(self, number: int, added: TextDelta) -> dict[str, Any]:
        """A choice of a chunk."""
        return {
            "index": number,
            "delta": ({"content": added.text} if added.text else {}) | _calls(added, indexed=True),
            "logprobs": self._logprobs(added.logprobs),
            "finish_reason": added.finish_reason,
        }

    def whole(self, number: int, whole: TextDelta) -> dict[str, Any]:
        """A choice of a whole answer."""
        content = (whole.text.strip() or None) if whole.tool_calls else whole.text
        message = {"role": "assistant", "content": content, "refusal": None}
        return {
            "index": number,
            "message": message | _calls(whole),
            "logprobs": self._logprobs(whole.logprobs),
            "finish_reason": whole.finish_reason,
        }

    def _logprobs(self, found: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not found:
            return None
        content = [
            self._entry(one.token, one.logprob)
            | {"top_logprobs": [self._entry(*other) for other in one.top]}
            for one in found
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text.token_text(token)
        # A token may be a part of a character, which has no text of its own.
        whole = "\N{REPLACEMENT CHARACTER}" not in text
        return {
            "token": text,
            "logprob": _finite(logprob),
            "bytes": list(text.encode()) if whole else None,
        }


def _calls(added: TextDelta, *, indexed: bool = False) -> dict[str, Any]:
    """`tool_calls`, if there are any; in a stream each has its index."""
    calls = [
        ({"index": number} if indexed else {})
        | {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for number, call in enumerate(added.tool_calls)
    ]
    return {"tool_calls": calls} if calls else {}


class CompletionShape:
    """`choices` of completions; one object for all of a reply, which counts its characters."""

    def __init__(self, text: Text, prompt: str, tokens: Sequence[int]) -> None:
        """`prompt`: as it was sent; `tokens`: of it."""
        self._text = text
        self._prompt = prompt
        self._tokens = tokens
        self._offsets: dict[int, _Offsets] = {}

    def whole(self, number: int, added: TextDelta) -> dict[str, Any]:
        """A choice, of a whole answer or of a chunk."""
        return {
            "index": number,
            "text": added.text,
            "logprobs": self._logprobs(number, added.logprobs),
            "finish_reason": added.finish_reason,
        }

    def _logprobs(self, number: int, found: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not found:
            return None
        named = self._text.token_text
        if number not in self._offsets:
            self._offsets[number] = _Offsets(self._text, len(self._prompt), self._tokens)
        offsets = self._offsets[number]
        return {
            "tokens": [named(one.token) for one in found],
            "token_logprobs": [_finite(one.logprob) for one in found],
            "top_logprobs": [
                {named(token): _finite(logprob) for token, logprob in one.top} for one in found
            ],
            "text_offset": [offsets.next(one.token) for one in found],
        }


class _Offsets:
    """Where in prompt and text together each token of one text begins.

    In characters from the beginning of the prompt, as OpenAI counts, whether the prompt is echoed
    or not. Tokens that hold parts of one character begin where it begins.
    """

    def __init__(self, text: Text, start: int, prompt: Sequence[int]) -> None:
        self._text = text
        self._detokenizer = Detokenizer(text.decode, prompt)
        self._at = start
        self._is_inside = False

    def next(self, token: int) -> int:
        """The offset of the token that comes next."""
        at = self._at
        added = self._detokenizer.push(token)
        self._at += len(added)
        own = self._text.token_text(token)
        if self._is_inside and added.endswith(own) and "\N{REPLACEMENT CHARACTER}" not in own:
            # The character that was begun before never ended, and is in `added` too.
            at = self._at - len(own)
        self._is_inside = not added
        return at


def _finite(logprob: float) -> float:
    """JSON knows no infinity; OpenAI says -9999 for what could not come."""
    return max(logprob, -9999.0)
