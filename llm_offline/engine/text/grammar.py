"""Text that must be JSON of a given schema: which tokens may come next, by llguidance.

The only module that imports llguidance.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, Literal

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from llm_offline.engine.text.bounding import bounded
from llm_offline.engine.text.calling import CLOSES, OPENS, Signature, lark
from llm_offline.errors import BadRequest, UnsupportedFeature

# White space in JSON: enough to read it by, and not without end.
_SPACE = r"[ \n]{0,2}"
_MOST_KEPT = 64
_LONGEST_KEPT = 100_000


class Grammars:
    """Makes matchers for one model. Safe to use from several threads."""

    def __init__(self, tokenizer: Any, vocabulary: int, stop_ids: Iterable[int]) -> None:
        """`vocabulary`: width of the logits; the tokenizer's may be another."""
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._stop_ids = sorted(stop_ids)
        self._tokens: LLTokenizer | None = None
        self._made: dict[str, LLMatcher] = {}  # the last one used comes last
        self._lock = threading.Lock()

    def json_object(self) -> Matcher:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def json_schema(self, schema: Mapping[str, Any], *, param: str = "response_format") -> Matcher:
        """JSON that `schema` accepts; the first call takes a second.

        Raises:
            BadRequest: `schema` is none, or uses what llguidance does not know.
        """
        return self._of_schema(schema, param)

    def calls(
        self,
        functions: Sequence[Signature],
        *,
        several: bool,
        otherwise: Mapping[str, Any] | Literal["text"] | None = None,
        spaces: int = 2,
    ) -> Matcher:
        """Calls of some of `functions`, or what `otherwise` says; see `calling.lark`.

        Raises:
            BadRequest: A schema is none, has no place for arguments, or uses what llguidance does
                not know.
        """
        tokens, known = self._known_tokens(), self._tokenizer.added_tokens_decoder
        # Those that decoding leaves out are in no text, and could not be found in it.
        plain = {
            one.content: at
            for at, one in known.items()
            if not one.special and at < self._vocabulary
        }
        with _refusing("tools"):
            text = lark(
                [Signature(one.name, bounded(one.arguments())) for one in functions],
                several=several,
                otherwise=bounded(otherwise) if isinstance(otherwise, Mapping) else otherwise,
                marked={OPENS, CLOSES} <= plain.keys(),
                marks=[
                    at
                    for content, at in plain.items()
                    if content not in (OPENS, CLOSES) and tokens.is_special_token(at)
                ],
                space=_SPACE,
                spaces=spaces,
            )
        try:
            return self._matcher(LLMatcher.grammar_from_lark(text), "tools")
        except BadRequest:
            for one in functions:
                whose = f'the schema of the function "{one.name}"'
                self._of_schema(one.arguments(), "tools", whose)
            raise

    def call_check(self, functions: Sequence[Signature]) -> Callable[[str], bool]:
        """Tells of a text whether it is calls of `functions`; raises as `calls` does."""
        # More than generously: an answer's spaces are another grammar's.
        begun = self.calls(functions, several=True, spaces=8)
        return lambda text: begun.follows(
            self._known_tokens().tokenize_str(text, parse_special=True)
        )

    def _of_schema(
        self, schema: Mapping[str, Any], param: str, whose: str = "the schema"
    ) -> Matcher:
        with _refusing(param):
            text = LLMatcher.grammar_from_json_schema(
                bounded(dict(schema)), overrides={"whitespace_pattern": _SPACE}
            )
        return self._matcher(text, param, whose)

    def _matcher(self, grammar: str, param: str, whose: str = "the schema") -> Matcher:
        matcher = self._fresh(grammar)
        if matcher.is_error():
            reason = _short(matcher.get_error())
            raise BadRequest(f"{param}: {whose} cannot be used: {reason}", param=param)
        found = Matcher(matcher, self._vocabulary, param)
        if not found.can_begin(self._stop_ids):
            raise BadRequest(f"{param}: no text can follow {whose}", param=param)
        return found

    def _known_tokens(self) -> LLTokenizer:
        """The vocabulary as llguidance has it; the first call takes a second.

        Raises:
            UnsupportedFeature: The tokenizer is of a kind that llguidance does not read.
        """
        with self._lock:
            if self._tokens is None:
                try:
                    self._tokens = _read(self._tokenizer, self._vocabulary, self._stop_ids)
                except ValueError as error:
                    raise UnsupportedFeature(
                        "this model's tokenizer cannot restrict what is written: leave "
                        f"response_format and tools out ({_short(str(error))})"
                    ) from error
            return self._tokens

    def _fresh(self, grammar: str) -> LLMatcher:
        """A matcher at the beginning; what was made before is copied: making takes 0.2 s."""
        tokens = self._known_tokens()
        with self._lock:
            made = self._made.pop(grammar, None)
        # Not under the lock: a large schema takes seconds, and others would wait for it.
        made = made or LLMatcher(tokens, grammar, log_level=0)
        if len(grammar) > _LONGEST_KEPT:
            return made
        with self._lock:
            self._made[grammar] = made
            if len(self._made) > _MOST_KEPT:
                del self._made[next(iter(self._made))]
            return made.deep_copy()


class Matcher:
    """How far one text has come in its grammar; an `interface.Grammar`."""

    def __init__(self, matcher: LLMatcher, vocabulary: int, param: str) -> None:
        """`param`: of the request, to be named where the grammar meets a limit."""
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._param = param

    @property
    def is_complete(self) -> bool:
        """See `interface.Grammar`."""
        return self._matcher.is_stopped()

    def can_begin(self, stop_ids: Sequence[int]) -> bool:
        """Whether some text, other than the empty one, can follow the grammar.

        Without torch: requests are looked at in threads that must not have its helpers.
        """
        words = int.from_bytes(self._matcher.compute_bitmask(), "little")
        wanted = ((1 << self._vocabulary) - 1) & ~sum(1 << token for token in set(stop_ids))
        return words & wanted != 0

    def follows(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens, from here on, would be all that the grammar wants."""
        matcher = self._matcher.deep_copy()
        return matcher.consume_tokens(list(tokens)) and matcher.is_accepting()

    def forced(self) -> list[int]:
        """See `interface.Grammar`."""
        found = self._matcher.compute_ff_tokens()
        return [*takewhile(lambda token: token < self._vocabulary, found)]

    def fitting(self, tokens: Sequence[int]) -> int:
        """See `interface.Grammar`."""
        return self._matcher.validate_tokens(list(tokens))

    def allowed(self, draft: Sequence[int] = ()) -> torch.Tensor:
        """See `interface.Grammar`."""
        masks = self._mask(draft)
        # A matcher that met a limit allows the end of the text, and says so only here.
        self._refuse_if(self._matcher.is_error())
        return masks

    def _mask(self, draft: Sequence[int] = ()) -> torch.Tensor:
        masks = [self._matcher.compute_bitmask()]
        for token in draft:
            self._matcher.consume_token(token)
            masks.append(self._matcher.compute_bitmask())
        if draft:
            self._matcher.rollback(len(draft))
        # By numpy, which takes bits apart ten times faster than torch's operations.
        words = np.frombuffer(b"".join(masks), dtype=np.uint8).reshape(len(masks), -1)
        bits = np.unpackbits(words, axis=1, count=self._vocabulary, bitorder="little")
        return torch.from_numpy(bits.view(np.bool_))

    def consume(self, token: int) -> None:
        """See `interface.Grammar`."""
        self._refuse_if(not self._matcher.consume_token(token))

    def _refuse_if(self, lost: bool) -> None:
        """What was drawn is always allowed: only llguidance's limits can end a text."""
        if lost:
            reason = _short(self._matcher.get_error()) or "no token fits"
            raise BadRequest(
                f"{self._param}: the schema is too complex: {reason}", param=self._param
            )


def _read(tokenizer: Any, vocabulary: int, stop_ids: Sequence[int]) -> LLTokenizer:
    """The tokens that texts consist of, and those that end them.

    A tokenizer may have been given tokens for which its model has no row (Gemma 3's for images,
    padding for a fine-tune), and a model may name no token that ends a text, or one that its
    tokenizer does not have (a row beyond its words).

    Raises:
        ValueError: It is of a kind that llguidance does not read.
    """
    if not tokenizer.is_fast:
        raise ValueError("it is not one of the tokenizers library")
    known = set(tokenizer.get_vocab().values())
    ends = [token for token in stop_ids if token < vocabulary]
    if ends and known.issuperset(ends) and max(known) < vocabulary:
        return from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=ends)
    backend = tokenizer.backend_tokenizer
    said = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    # llguidance would want such a token, and no other, wherever its text is the only one allowed.
    said["added_tokens"] = [one for one in said["added_tokens"] if one["id"] < vocabulary]
    reduced = type(backend).from_str(json.dumps(said))
    # llguidance wants an end. If there is none, then one that cannot be drawn: texts then end where
    # the grammar leaves no choice.
    ends = _named(reduced, ends) or _named(reduced, [max(vocabulary, _width(reduced))])
    return LLTokenizer(reduced.to_str(), n_vocab=max(vocabulary, _width(reduced)), eos_token=ends)


def _named(backend: Any, ids: Sequence[int]) -> list[int]:
    """Those of `ids` that a tokenizer has, once what it lacks was added without a text of its own.

    New tokens get the ids from the count of those that there are, so all up to the largest of `ids`
    are added. None of them is in any text, and a grammar allows none but an end.
    """
    missing = range(backend.get_vocab_size(), max(ids, default=-1) + 1)
    backend.add_special_tokens([f"<|no text {token}|>" for token in missing])
    known = set(backend.get_vocab().values())
    return [token for token in ids if token in known]


def _width(backend: Any) -> int:
    """One more than a tokenizer's largest id."""
    largest: int = max(backend.get_vocab().values())
    return largest + 1


@contextmanager
def _refusing(param: str) -> Iterator[None]:
    """What schemas that are none make of the code that looks into them, as `BadRequest`."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise BadRequest(
            f"{param}: this is not a JSON schema: {_short(str(error))}", param=param
        ) from error
    except RecursionError as error:
        raise BadRequest(f"{param}: the schema is nested too deeply", param=param) from error


def _short(reason: str) -> str:
    """The first line of what llguidance says, without what it quotes of a schema."""
    first = (reason.strip().splitlines() or [""])[0]
    if "coerce_one_of" in first:  # it names an option of its own, which no client has
        return (
            "the options of a oneOf cannot be told apart: give each a type, or a required "
            "property, of its own, or write anyOf"
        )
    return first.rpartition("failed to compile JSON schema: ")[2][:200]
