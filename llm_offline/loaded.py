"""What a load produces; apart from `loading`, so that naming it does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from llm_offline.engine.interface import Grammar, Sampling
from llm_offline.engine.step import Network as Steppable
from llm_offline.engine.text.calling import Signature
from llm_offline.engine.text.model_text import Message
from llm_offline.fitting import Need
from llm_offline.progress import Progress
from llm_offline.settings import Settings


class Network(Steppable, Protocol):
    """Weights on a device."""

    @property
    def difference(self) -> float:
        """How far its logits are from those of the model's own attention: ‖ours - own‖/‖own‖."""
        ...

    def memory(self) -> dict[str, int]:
        """`used_bytes`, `free_bytes`, `total_bytes` of the device, for `/health`."""
        ...


class Text(Protocol):
    """Tokenizer and chat template; `engine.text.model_text.ModelText` is one."""

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Token ids of a conversation, up to where the answer begins."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of plain text."""
        ...

    def token_text(self, token: int) -> str:
        """One token as it stands, special ones included."""
        ...

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids, special tokens left out or (`special`) written."""
        ...

    def first_unknown(self, tokens: Sequence[int]) -> int | None:
        """Where the first id stands that the tokenizer does not have; None if it has all."""
        ...


class Grammars(Protocol):
    """Makes grammars for the model's tokens; `engine.text.grammar.Grammars` is one."""

    def json_object(self) -> Grammar:
        """Any JSON object."""
        ...

    def json_schema(self, schema: Mapping[str, Any], *, param: str = "response_format") -> Grammar:
        """JSON of a schema; raises `BadRequest` for what is none."""
        ...

    def calls(
        self,
        functions: Sequence[Signature],
        *,
        several: bool,
        otherwise: Mapping[str, Any] | Literal["text"] | None = None,
    ) -> Grammar:
        """Calls of functions, or what `otherwise` says; raises `BadRequest` for bad schemas."""
        ...

    def call_check(self, functions: Sequence[Signature]) -> Callable[[str], bool]:
        """Tells of a text whether it is calls of `functions`."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to generate.

    Attributes:
        network: The weights.
        text: Tokenizer and chat template.
        grammars: What restricts its texts.
        context: Tokens of prompt and answer together.
        defaults: Sampling where a request says nothing: the model's own advice.
        device: Where it computes.
        dtype: What it computes in: bf16, fp16 or fp32.
        quantization: Of its linear layers but the last: none, int8 or int4.
        weights_bytes: Memory of its weights.
        kv_bytes: Memory of its KV cache.
        kv_tokens: Tokens that the KV cache holds.
        template: Where its chat template comes from, in words; None where it has none.
        remarks: Phrases for the start's report.
    """

    network: Network
    text: Text
    grammars: Grammars
    context: int
    defaults: Sampling
    device: str
    dtype: str
    quantization: str = "none"
    weights_bytes: int = 0
    kv_bytes: int = 0
    kv_tokens: int = 0
    template: str | None = None
    remarks: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What it takes and can, for answers."""
        return {
            "device": self.device,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "context_length": self.context,
            "weights_bytes": self.weights_bytes,
            "kv_cache_bytes": self.kv_bytes,
            "full_length_requests": round(self.kv_tokens / self.context, 1),
            "chat_template": self.template,
        }


class Loader(Protocol):
    """Finds models and reads them; called in threads that end with the call."""

    def weigh(self, settings: Settings, progress: Progress) -> Need:
        """Find a model's files, download them if need be, and estimate what it takes.

        Raises:
            StartError: One sentence about what is wrong with them.
        """
        ...

    def load(self, settings: Settings, progress: Progress) -> LoadedModel:
        """Read the model in and try it; raises `StartError`."""
        ...

    def give_back(self) -> None:
        """Give the system back what nobody uses any more."""
        ...
