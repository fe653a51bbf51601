"""Attention over a paged KV cache, called by Hugging Face's model code.

The model runs on one flattened row `[1, T]`: the tokens of all sequences of a step, one after the
other. `AttentionInterface` lets a model call `paged_attention` in place of its own attention; what
the function needs of the step travels through the model as a keyword argument, and each attention
module carries its layer's cache. No mask is made by the model: each token sees what was in its
own sequence before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from llm_offline.engine.decoding import Decode
from llm_offline.engine.static_batch import Inputs

NAME = "llm_offline_paged"
_PROBE = "llm_offline_probe"


@dataclass(slots=True)
class Segment:
    """One sequence's tokens in the flattened row.

    Attributes:
        first: Index of its first token in the row.
        count: How many it has there.
        length: Tokens of the sequence up to and with these.
        blocks: int64 `[n]`, its blocks in the cache.
        run: The slot of its first token, if its blocks lie side by side.
    """

    first: int
    count: int
    length: int
    blocks: torch.Tensor
    run: int | None = None
    masks: dict[int, torch.Tensor] = field(default_factory=dict)

    def beginning(self, window: int | None) -> int:
        """Position of the first token that any of the segment's tokens sees."""
        return max(0, self.length - self.count - window + 1) if window else 0

    def mask(self, window: int | None) -> torch.Tensor:
        """bool `[count, length - beginning]`, True where a token sees another; made once a step."""
        key = window or 0
        if key not in self.masks:
            start = self.beginning(window)
            device = self.blocks.device
            seen = torch.arange(start, self.length, device=device)
            seeing = torch.arange(self.length - self.count, self.length, device=device)[:, None]
            mask = seen <= seeing
            if window:
                mask &= seen > seeing - window
            self.masks[key] = mask
        return self.masks[key]


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a model scores what a token sees; see `paged_attention`."""

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None


class Paged(Protocol):
    """Where the tokens of a flattened row belong, and how they look back."""

    @property
    def slots(self) -> torch.Tensor:
        """int64 `[T]`, where each token's keys and values are written."""
        ...

    def attend(self, query: torch.Tensor, cache: LayerCache, how: Scoring) -> torch.Tensor:
        """`[1, heads, T, dim]` → `[1, T, heads, dim]`."""
        ...


class LayerCache:
    """Keys and values of one layer: `[kv_heads, blocks * size, head_dim]` each.

    Head-major: attention reads a head's tokens side by side.
    """

    def __init__(self, shape: LayerShape, blocks: int, size: int, like: torch.Tensor) -> None:
        """Takes dtype and device of `like`.

        Raises:
            RuntimeError: It does not fit on the device (`device.lacks_memory`).
        """
        slots = blocks * size
        self.size = size
        self.keys = like.new_empty(shape.heads, slots, shape.key_dim)
        self.values = like.new_empty(shape.heads, slots, shape.value_dim)

    def write(self, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store `[kv_heads, T, head_dim]` at `slots`."""
        self.keys.index_copy_(1, slots, keys)
        self.values.index_copy_(1, slots, values)

    def read(self, segment: Segment, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of positions `start` to the segment's end: `[1, kv_heads, n, dim]`."""
        if segment.run is not None:
            where = slice(segment.run + start, segment.run + segment.length)
            return self.keys[None, :, where], self.values[None, :, where]
        first = start // self.size
        blocks = segment.blocks[first : -(-segment.length // self.size)]
        skipped = start - first * self.size
        until = segment.length - first * self.size
        keys, values = (self._gather(whole, blocks) for whole in (self.keys, self.values))
        return keys[:, :, skipped:until], values[:, :, skipped:until]

    def _gather(self, whole: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        heads, slots, dim = whole.shape
        paged = whole.view(heads, slots // self.size, self.size * dim)
        return paged.index_select(1, blocks).view(1, heads, -1, dim)


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    *,
    paged: Paged,
    **ignored: object,
) -> tuple[torch.Tensor, None]:
    """What `transformers.AttentionInterface` calls: `[1, heads, T, dim]` → `[1, T, heads, dim]`.

    Args:
        module: The attention module; its `paged_cache` is a `LayerCache`.
        query: `[1, heads, T, dim]`.
        key: `[1, kv_heads, T, dim]`.
        value: `[1, kv_heads, T, dim]`.
        attention_mask: None; the step says who sees whom.
        scaling: Factor of the scores; `dim ** -0.5` if None.
        sliding_window: Tokens that a token sees, itself included; None is all before it.
        softcap: Bounds the scores by `softcap * tanh(score / softcap)` (Gemma 2).
        s_aux: `[heads]`, a score that takes part in the softmax and has no value (GPT-OSS).
        paged: Where the row's tokens belong.
        ignored: What else a model passes.
    """
    cache: LayerCache = module.paged_cache
    cache.write(paged.slots, key[0], value[0])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    how = Scoring(scale, sliding_window, softcap, s_aux)
    return paged.attend(query, cache, how), None


@dataclass(frozen=True, slots=True)
class Together:
    """Sequences that are fed the same number of tokens, all in one call of fixed shape."""

    inputs: Inputs
    decode: Decode

    @property
    def slots(self) -> torch.Tensor:
        """See `Paged`."""
        return self.inputs.slots

    def attend(self, query: torch.Tensor, cache: LayerCache, how: Scoring) -> torch.Tensor:
        """See `Paged`."""
        found = self.decode(
            query[0], cache.keys, cache.values,
            self.inputs.tables, self.inputs.lengths, self.inputs.positions,
            cache.size, how.scaling, how.window, how.softcap, how.sinks,
        )  # fmt: skip
        return found[None]


@dataclass(frozen=True, slots=True)
class Separately:
    """Sequences of any number of tokens, one after the other.

    Attributes:
        slots: See `Paged`.
        segments: The sequences, in the order of the row.
    """

    slots: torch.Tensor
    segments: list[Segment]

    def attend(self, query: torch.Tensor, cache: LayerCache, how: Scoring) -> torch.Tensor:
        """See `Paged`."""
        _, heads, tokens, _ = query.shape
        output = query.new_empty(1, tokens, heads, cache.values.shape[-1])
        attend = _attend if how.softcap is None and how.sinks is None else _attend_plainly
        for segment in self.segments:
            rows = slice(segment.first, segment.first + segment.count)
            keys, values = cache.read(segment, segment.beginning(how.window))
            # The heads that share keys become rows of one head: each key is read once.
            packed = query[:, :, rows].reshape(1, keys.shape[1], -1, query.shape[-1])
            mask = None
            if segment.count > 1:
                groups = heads // keys.shape[1]
                mask = segment.mask(how.window).repeat(groups, 1)
            found = attend(packed, keys, values, mask, how)
            output[0, rows] = found.reshape(heads, segment.count, -1).transpose(0, 1)
        return output


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    how: Scoring,
) -> torch.Tensor:
    return functional.scaled_dot_product_attention(query, keys, values, mask, scale=how.scaling)


def _attend_plainly(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    how: Scoring,
) -> torch.Tensor:
    """With what torch's own attention does not know: capped scores and sinks."""
    scores = (query @ keys.transpose(-1, -2)).float() * how.scaling
    if how.softcap is not None:
        scores = how.softcap * torch.tanh(scores / how.softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if how.sinks is not None:
        rows = scores.shape[2] // (how.sinks.numel() // scores.shape[1])
        sink = how.sinks.float().repeat_interleave(rows).view(1, scores.shape[1], -1, 1)
        scores = torch.cat([scores, sink], dim=-1)
    shares = torch.softmax(scores, dim=-1)[..., : keys.shape[2]]
    return shares.to(values.dtype) @ values


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention module stores a token: `heads * (key_dim + value_dim)` numbers."""

    heads: int
    key_dim: int
    value_dim: int


def layer_shapes(model: PreTrainedModel) -> list[tuple[Any, LayerShape]]:
    """Each attention module and the shape of its cache, in the order in which they are called.

    Found by running the model on two tokens: configurations name such things in many ways.
    """
    found: list[tuple[Any, LayerShape]] = []

    def probe(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, None]:
        found.append((module, LayerShape(key.shape[1], key.shape[3], value.shape[3])))
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None

    with _attention(model, _PROBE, probe), torch.inference_mode():
        ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
        model(input_ids=ids, position_ids=torch.tensor([[0, 1]], device=model.device),
              use_cache=False)  # fmt: skip
    return found


def install(
    model: PreTrainedModel, layers: list[tuple[Any, LayerShape]], blocks: int, size: int
) -> None:
    """Give each layer its cache, and make the model call `paged_attention`.

    Raises:
        RuntimeError: The caches do not fit on the device (`device.lacks_memory`).
    """
    AttentionInterface.register(NAME, paged_attention)
    like = next(model.parameters())
    for module, shape in layers:
        module.paged_cache = LayerCache(shape, blocks, size, like.new_empty(0, dtype=model.dtype))
    model.set_attn_implementation(NAME)


@contextmanager
def _attention(model: PreTrainedModel, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """The model with another attention for a while."""
    AttentionInterface.register(name, function)
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        # What stays registered stays in memory, and so does what it knows: the model's layers.
        AttentionInterface.register(name, paged_attention)
