"""The model's own way of writing: its tokenizer and its chat template."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from llm_offline.errors import BadRequest, StartError, UnsupportedFeature

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parents[2] / "templates"
# A template that ships with this package, and a token that only its models know.
SHIPPED = {"llama3": "<|start_header_id|>", "chatml": "<|im_start|>"}

# What a template's code may raise for values of another kind than its author had in mind.
_BROKEN = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

Message = Mapping[str, Any]
"""`{"role", "content"}`, both plain text; `tool_calls` and `tool_call_id` as OpenAI has them, with
a call's arguments as an object."""


def choose_template(tokenizer: Any, wanted: str | None) -> tuple[str | None, str]:
    """The Jinja source to use, and where it comes from, in words.

    Args:
        tokenizer: A transformers tokenizer.
        wanted: A shipped template's name, a file, or None for the model's own.

    Raises:
        StartError: `wanted` is neither a shipped template nor a readable file with one.
    """
    if wanted in SHIPPED:
        token = SHIPPED[wanted]
        strange = "" if token in tokenizer.get_vocab() else f"; {token} is no token of this model's"
        return _shipped(wanted), f"{wanted} (--chat-template{strange})"
    if wanted:
        return _written(wanted, tokenizer), wanted
    if tokenizer.chat_template:
        # None when the model names several templates and none of them is the default one.
        return None, "the model's own"
    vocabulary = tokenizer.get_vocab()
    for name, token in SHIPPED.items():
        if token in vocabulary:
            return _shipped(name), f"{name} (the model has none, but knows {token})"
    return "", "none: chat is refused; choose one with --chat-template"


def _written(path: str, tokenizer: Any) -> str:
    """The template in a file."""
    try:
        source = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(
            f"--chat-template {path}: not a readable file, nor one of {', '.join(SHIPPED)} "
            f"({error})"
        ) from error
    try:
        some: list[Message] = [{"role": "user", "content": "x"}]
        tokenizer.apply_chat_template(some, chat_template=source, tokenize=False)
    except TemplateSyntaxError as error:
        raise StartError(
            f"--chat-template {path}, line {error.lineno}: {error.message}: mend the template"
        ) from error
    except (TemplateError, *_BROKEN):
        log.debug("the chat template refuses a bare question", exc_info=True)
    return source


def _shipped(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


class ModelText:
    """Encodes prompts, decodes answers. Safe to use from several threads."""

    def __init__(self, tokenizer: Any, chat_template: str | None) -> None:
        """`chat_template`: Jinja source; None is the tokenizer's own, "" is none at all."""
        self._tokenizer = tokenizer
        self._template = chat_template
        special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        self._ids = frozenset(tokenizer.get_vocab().values())
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Token ids of a conversation, up to where the answer begins.

        Args:
            messages: The conversation.
            tools: Functions that the model may call, as OpenAI describes them.

        Raises:
            UnsupportedFeature: The model has no chat template, or one that knows no tools.
            BadRequest: The template refuses the conversation, or fails on it.
        """
        if self._template == "":
            raise UnsupportedFeature(
                "this model has no chat template: start the server with --chat-template llama3, "
                "chatml or a Jinja file, or use /v1/completions",
                param="messages",
            )
        if tools and "tools" not in str(self._template or self._tokenizer.chat_template):
            raise UnsupportedFeature(
                "this model's chat template knows no tools: leave them out", param="tools"
            )
        described = [self._defused(tool) for tool in tools]
        text = self._render([self._defused(message) for message in messages], described)
        # The template has written the BOS already; encoding must not add another.
        return self._encode(text, add_special_tokens=False)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of plain text; with special tokens, as the model saw texts in training."""
        return self._encode(text, add_special_tokens=add_special_tokens)

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids, special tokens left out or (`special`) written."""
        return str(
            self._tokenizer.decode(
                list(tokens), skip_special_tokens=not special, clean_up_tokenization_spaces=False
            )
        )

    def first_unknown(self, tokens: Sequence[int]) -> int | None:
        """Where the first id stands that the tokenizer does not have; None if it has all.

        The logits may be wider than the tokenizer: decoding leaves such ids out without a word.
        """
        known = self._ids
        return next((at for at, token in enumerate(tokens) if token not in known), None)

    def token_text(self, token: int) -> str:
        """One token as it stands, special ones included."""
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))

    def _defused(self, value: Any) -> Any:
        """The value, with special tokens in its texts made ordinary text by a space.

        Else a document that spells `<|eot_id|>` could end its message and begin another one.
        """
        if isinstance(value, str):
            return self._special.sub(lambda at: f"{at[0][0]} {at[0][1:]}", value)
        if isinstance(value, Mapping):
            return {self._defused(key): self._defused(part) for key, part in value.items()}
        return [self._defused(part) for part in value] if isinstance(value, list) else value

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        # verbose=False: a prompt that is too long is answered with 400, not with a warning.
        encoded = self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)
        return list(encoded["input_ids"])

    def _render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
        try:
            return self._apply(messages, tools)
        except TemplateError as error:
            if messages[0]["role"] != "system" or len(messages) < 2:
                raise _refused(error) from error
        except _BROKEN as error:
            raise _refused(error) from error
        # Some templates (Gemma, early Mistral) know no system role; their authors put such text
        # before the first question.
        system, first, *rest = messages
        merged = {**first, "content": f"{system['content']}\n\n{first['content']}"}
        try:
            return self._apply([merged, *rest], tools)
        except (TemplateError, *_BROKEN) as error:
            raise _refused(error) from error

    def _apply(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                tools=tools or None,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
            )
        )


def _refused(error: Exception) -> BadRequest:
    """One sentence about what a template made of a conversation."""
    if isinstance(error, TemplateError):
        reason = f"refuses these messages: {error.message}"
    elif isinstance(error, RecursionError):
        reason = "cannot write these messages or tools: they are nested too deeply"
    else:
        log.warning("the chat template failed on a request: %s", type(error).__name__)
        reason = (
            f"cannot write these messages or tools ({type(error).__name__}: {str(error)[:200]}): "
            "it expects others, or --chat-template is not for this model"
        )
    return BadRequest(f"the model's chat template {reason}", param="messages")
