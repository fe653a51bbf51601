"""Attention of a few new tokens a sequence over the paged KV cache, as two Triton kernels.

A sequence that decodes has one query and thousands of keys, so that reading the cache is all there
is to do. Each sequence's keys are therefore cut into splits that different processors of the GPU
read at the same time (flash-decoding, Dao et al. 2023), and the second kernel adds the parts up.
The number of splits depends on the shape of the batch and never on how long the sequences are: the
same launches serve every step, which is what a CUDA graph replays.

The heads that share keys, and the new tokens of a sequence (the last one and guesses after it), are
rows of one small matrix: each key is read once for all of them.

The only module that imports triton. `TRITON_INTERPRET=1`, set before the import, runs the kernels
on a CPU, for tests.
"""

# No `from __future__ import annotations`: an operator's schema is made of real types.
from functools import cache
from subprocess import SubprocessError
from typing import Any

import torch
import triton
import triton.language as tl
from triton.errors import TritonError

_TILE_BYTES = 32 * 1024  # of keys and values at a time: two such fit every GPU since Turing
_MOST_SPLITS = 32
_LEAST = 16  # rows and columns of a matrix product on tensor cores


@triton.jit
def _attend_split(
    query, keys, values, tables, lengths, positions, parts, weights, tops, scale,
    query_head, query_token, key_head, key_slot, value_head, value_slot, table_row,
    fed: tl.constexpr, groups: tl.constexpr, rows: tl.constexpr, key_dim: tl.constexpr,
    value_dim: tl.constexpr, wide_key: tl.constexpr, wide_value: tl.constexpr,
    page: tl.constexpr, tile: tl.constexpr, splits: tl.constexpr, window: tl.constexpr,
    softcap: tl.constexpr, exact: tl.constexpr,
):  # fmt: skip
    """One split of one sequence's keys for the heads that share them: program (b, head, split).

    Leaves `parts` `[B*fed, heads, splits, value_dim]` (not yet divided), `weights` (the divisor)
    and `tops` (the largest score) `[B*fed, heads, splits]`, all fp32.
    """
    sequence, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    # 64 bits: a cache may have more numbers than 32 bits can count.
    shared = kv_head.to(tl.int64)
    row = tl.arange(0, rows)
    token = sequence * fed + row // groups
    head = kv_head * groups + row % groups
    real = row < fed * groups
    wide = tl.arange(0, wide_key)
    deep = tl.arange(0, wide_value)
    at = tl.load(positions + token, mask=real, other=0)
    asked = tl.load(
        query + head[:, None] * query_head + token[:, None] * query_token + wide[None, :],
        mask=real[:, None] & (wide < key_dim)[None, :],
        other=0.0,
    )
    length = tl.load(lengths + sequence)
    first = length * 0
    if window > 0:
        # The earliest of the new tokens sees furthest back.
        first = tl.maximum(tl.load(positions + sequence * fed) - window + 1, 0)
    share = tl.cdiv(tl.cdiv(tl.maximum(length - first, 0), splits), tile) * tile
    start = first + split * share
    end = tl.minimum(start + share, length)
    top = tl.full([rows], float("-inf"), tl.float32)
    weight = tl.zeros([rows], tl.float32)
    part = tl.zeros([rows, wide_value], tl.float32)
    for begun in range(start, end, tile):
        seen = begun + tl.arange(0, tile)
        there = seen < end
        block = tl.load(tables + sequence * table_row + seen // page, mask=there, other=0)
        slot = block * page + seen % page
        key = tl.load(
            keys + shared * key_head + slot[None, :] * key_slot + wide[:, None],
            mask=there[None, :] & (wide < key_dim)[:, None],
            other=0.0,
        )
        if exact:
            score = tl.dot(asked, key, input_precision="ieee") * scale
        else:
            score = tl.dot(asked, key) * scale
        if softcap > 0:
            score = softcap * (2 * tl.sigmoid(2 * score / softcap) - 1)  # tanh
        visible = there[None, :] & (seen[None, :] <= at[:, None])
        if window > 0:
            visible = visible & (seen[None, :] > at[:, None] - window)
        score = tl.where(visible, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        # A row that has seen nothing yet has no largest score to take away.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        chance = tl.exp(score - base[:, None])
        fading = tl.exp(top - base)
        value = tl.load(
            values + shared * value_head + slot[:, None] * value_slot + deep[None, :],
            mask=there[:, None] & (deep < value_dim)[None, :],
            other=0.0,
        )
        weight = weight * fading + tl.sum(chance, 1)
        if exact:
            found = tl.dot(chance, value, input_precision="ieee")
        else:
            found = tl.dot(chance.to(value.dtype), value)
        part = part * fading[:, None] + found
        top = higher
    place = (token * tl.num_programs(1) * groups + head) * splits + split
    tl.store(weights + place, weight, mask=real)
    tl.store(tops + place, top, mask=real)
    tl.store(
        parts + place[:, None] * value_dim + deep[None, :],
        part,
        mask=real[:, None] & (deep < value_dim)[None, :],
    )


@triton.jit
def _add_splits(
    parts, weights, tops, sinks, output,
    heads, value_dim: tl.constexpr, wide_value: tl.constexpr, splits: tl.constexpr,
    sinking: tl.constexpr,
):  # fmt: skip
    """The splits of one token's one head, added up: program (token * heads + head)."""
    number = tl.program_id(0)
    split = tl.arange(0, splits)
    deep = tl.arange(0, wide_value)
    top = tl.load(tops + number * splits + split)
    highest = tl.max(top, 0)
    if sinking:
        sink = tl.load(sinks + number % heads).to(tl.float32)
        highest = tl.maximum(highest, sink)
    base = tl.where(highest == float("-inf"), 0.0, highest)
    fading = tl.exp(top - base)
    whole = tl.sum(tl.load(weights + number * splits + split) * fading, 0)
    if sinking:
        whole += tl.exp(sink - base)
    part = tl.load(
        parts + (number * splits + split)[:, None] * value_dim + deep[None, :],
        mask=(deep < value_dim)[None, :],
        other=0.0,
    )
    found = tl.sum(part * fading[:, None], 0)
    # Rows that only fill the batch up have seen nothing: zeros, and no division by zero. What is
    # not a number stays so, and is noticed.
    found = tl.where(whole == 0, 0.0, found / tl.where(whole == 0, 1.0, whole))
    tl.store(
        output + number * value_dim + deep,
        found.to(output.dtype.element_ty),
        mask=deep < value_dim,
    )


def choose_splits(sequences: int, kv_heads: int, processors: int) -> int:
    """Into how many parts keys are cut, so that two programs go to each of a GPU's processors."""
    wanted = -(-2 * processors // (sequences * kv_heads))
    return min(_MOST_SPLITS, _power(wanted))


def tile_size(key_dim: int, value_dim: int, itemsize: int) -> int:
    """Keys that are read at a time."""
    wide = _power(key_dim) + _power(value_dim)
    return max(_LEAST, min(128, _TILE_BYTES // (wide * itemsize)))


def _power(number: int) -> int:
    """The next power of two, as Triton's blocks need it."""
    return int(triton.next_power_of_2(max(1, number)))


# An operator of torch's own, so that its compiler takes the call as it is.
@torch.library.custom_op("llm_offline::decode", mutates_args=())
def decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    lengths: torch.Tensor,
    positions: torch.Tensor,
    page: int,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `decoding.plain_decode`; fp32, fp16 or bf16.

    Raises:
        RuntimeError: The kernels cannot be built here, for want of a C compiler for example.
    """
    splits = choose_splits(len(lengths), keys.shape[0], _processors(query.device))
    try:
        return launch(
            query, keys, values, tables, lengths, positions, page, scaling, window, softcap,
            sinks, splits=splits,
        )  # fmt: skip
    except (TritonError, OSError, SubprocessError) as error:
        raise RuntimeError(f"Triton's kernels do not work here: {error}") from error


@decode.register_fake
def _shape_of(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *_: Any
) -> torch.Tensor:
    return query.new_empty(query.shape[1], query.shape[0], values.shape[2])


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":  # the interpreter
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def launch(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    lengths: torch.Tensor,
    positions: torch.Tensor,
    page: int,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    *,
    splits: int,
) -> torch.Tensor:
    """`decode` with a given number of splits, a power of two."""
    heads, tokens, key_dim = query.shape
    kv_heads, _, value_dim = values.shape
    fed, groups = tokens // len(lengths), heads // kv_heads
    wide_value = max(_LEAST, _power(value_dim))
    parts = query.new_empty(tokens, heads, splits, value_dim, dtype=torch.float32)
    weights, tops = parts.new_empty(2, tokens, heads, splits)
    output = query.new_empty(tokens, heads, value_dim)
    _attend_split[(len(lengths), kv_heads, splits)](
        query, keys, values, tables, lengths, positions, parts, weights, tops, scaling,
        query.stride(0), query.stride(1), keys.stride(0), keys.stride(1),
        values.stride(0), values.stride(1), tables.stride(0),
        fed=fed, groups=groups,
        rows=max(_LEAST, _power(fed * groups)),
        key_dim=key_dim, value_dim=value_dim,
        wide_key=max(_LEAST, _power(key_dim)), wide_value=wide_value,
        page=page, tile=tile_size(key_dim, value_dim, query.element_size()), splits=splits,
        window=window or 0, softcap=softcap or 0.0, exact=query.dtype == torch.float32,
        num_warps=4, num_stages=3,
    )  # fmt: skip
    _add_splits[(tokens * heads,)](
        parts, weights, tops, output if sinks is None else sinks, output,
        heads, value_dim=value_dim, wide_value=wide_value, splits=splits,
        sinking=sinks is not None, num_warps=4,
    )  # fmt: skip
    return output
