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
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface, PreTrainedModel

from llm_offline.engine.compute.decoding import Decode
from llm_offline.engine.compute.static_batch import Inputs

NAME = "llm_offline_paged"
_PROBE = "llm_offline_probe"
_SKIPPING = 512
"""Tokens from which on torch's kernels gain by leaving out what a causal mask hides."""


@dataclass(slots=True)
class Segment:
    """One sequence's tokens in the flattened row.

    Attributes:
        first: Index of its first token in the row.
        count: How many it has there.
        length: Tokens of the sequence up to and with these.
        run: The slot of its first token, if its blocks lie side by side.
        blocks: int64 `[n]`, its blocks in the cache, if they do not.
    """

    first: int
    count: int
    length: int
    run: int | None = None
    blocks: torch.Tensor | None = None
    _biases: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    def beginning(self, window: int | None) -> int:
        """Position of the first token that any of the segment's tokens sees."""
        return max(0, self.length - self.count - window + 1) if window else 0

    def is_plainly_causal(self, window: int | None) -> bool:
        """Whether its tokens are a whole text, each of which sees all before it."""
        return self.count == self.length and (not window or window >= self.length)

    def bias(self, window: int | None, groups: int, like: torch.Tensor) -> torch.Tensor:
        """`[groups * count, length - beginning]`, to be added to scores: 0 where a token sees one.

        Made once a step, in dtype and on the device of `like`; `groups`: times it is repeated.
        """
        key = window or 0, groups
        if key not in self._biases:
            start = self.beginning(window)
            seen = torch.arange(start, self.length, device=like.device)
            seeing = torch.arange(self.length - self.count, self.length, device=like.device)
            hidden = seen > seeing[:, None]
            if window:
                hidden |= seen <= seeing[:, None] - window
            bias = like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
            self._biases[key] = bias.repeat(groups, 1)
        return self._biases[key]


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a model scores what a token sees; see `paged_attention`."""

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def is_special(self) -> bool:
        """Whether torch's own attention does not know how."""
        return self.softcap is not None or self.sinks is not None


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
        self._batched = self.keys[None], self.values[None]

    def write(self, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store `[kv_heads, T, head_dim]` at `slots`."""
        self.keys.index_copy_(1, slots, keys)
        self.values.index_copy_(1, slots, values)

    def read(self, segment: Segment, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of positions `start` to the segment's end: `[1, kv_heads, n, dim]`."""
        if segment.blocks is None:
            at, count = (segment.run or 0) + start, segment.length - start
            return self._batched[0].narrow(2, at, count), self._batched[1].narrow(2, at, count)
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

    Heads that share keys become rows of one head: each key is read once.

    Attributes:
        slots: See `Paged`.
        segments: The sequences, in the order of the row; those of one token come first.
    """

    slots: torch.Tensor
    segments: list[Segment]

    def attend(self, query: torch.Tensor, cache: LayerCache, how: Scoring) -> torch.Tensor:
        """See `Paged`."""
        alone = 0 if how.is_special else sum(segment.count == 1 for segment in self.segments)
        parts = [_of_one_token(query, cache, self.segments[:alone], how)] if alone else []
        for segment in self.segments[alone:]:
            rows = query[0, :, segment.first : segment.first + segment.count]
            parts.append(_of_many_tokens(rows, cache, segment, how))
        return torch.cat(parts)[None] if len(parts) > 1 else parts[0][None]


def _of_one_token(
    query: torch.Tensor, cache: LayerCache, segments: list[Segment], how: Scoring
) -> torch.Tensor:
    """The first tokens of `[1, heads, T, dim]`, one a sequence → `[n, heads, dim]`.

    With many sequences the calls take as long as the work, so there are few of them.
    """
    rows = query[0, :, : len(segments)].transpose(0, 1)
    packed = rows.reshape(len(segments), 1, cache.keys.shape[0], -1, query.shape[-1])
    found = [
        sdpa(one, *cache.read(segment, segment.beginning(how.window)), scale=how.scaling)
        for one, segment in zip(packed, segments, strict=True)
    ]
    return torch.cat(found).flatten(1, 2)


def _of_many_tokens(
    query: torch.Tensor, cache: LayerCache, segment: Segment, how: Scoring
) -> torch.Tensor:
    """One sequence's tokens: `[heads, count, dim]` → `[count, heads, dim]`."""
    keys, values = cache.read(segment, segment.beginning(how.window))
    heads, count, dim = query.shape
    groups = heads // keys.shape[1]
    if count >= _SKIPPING and segment.is_plainly_causal(how.window) and not how.is_special:
        apart = query.reshape(-1, groups, count, dim)
        keys, values = (one[0, :, None].expand(-1, groups, -1, -1) for one in (keys, values))
        found = sdpa(apart, keys, values, is_causal=True, scale=how.scaling)
    else:
        packed = query.reshape(1, -1, groups * count, dim)
        bias = segment.bias(how.window, groups, packed)
        attend = _attend_plainly if how.is_special else _attend
        found = attend(packed, keys, values, bias, how)
    return found.reshape(heads, count, -1).transpose(0, 1)


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor, how: Scoring
) -> torch.Tensor:
    return sdpa(query, keys, values, bias, scale=how.scaling)


def _attend_plainly(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor, how: Scoring
) -> torch.Tensor:
    """With what torch's own attention does not know: capped scores and sinks."""
    scores = (query @ keys.transpose(-1, -2)).float() * how.scaling
    if how.softcap is not None:
        scores = how.softcap * torch.tanh(scores / how.softcap)
    scores += bias
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
