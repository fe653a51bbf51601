"""Attention of a few new tokens a sequence, all sequences in one call of fixed shape.

`Decode` is done by Triton's kernels on a GPU (`triton_decode`), and by `plain_decode` in plain
PyTorch, which says what they compute, stands in for them in tests, and would be slow in earnest: it
reads a sequence's whole table, however short the sequence is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Decode = Callable[..., torch.Tensor]
"""`plain_decode`, or what has its parameters."""


def gpu_decode() -> Decode:
    """Triton's kernels.

    Raises:
        ImportError: Triton is not installed, as on Windows.
    """
    # Only here: it is large, comes with PyTorch's CUDA build alone, and takes a second to import.
    from llm_offline.engine.compute.triton_decode import decode

    return decode


def plain_decode(
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
    """Attention for `fed` tokens of each of B sequences.

    Args:
        query: `[heads, B * fed, key_dim]`, the last dimension contiguous.
        keys: `[kv_heads, slots, key_dim]`.
        values: `[kv_heads, slots, value_dim]`.
        tables: int64 `[B, blocks]`: the blocks of each sequence.
        lengths: int64 `[B]`: keys of each sequence; 0 for a row that fills the batch up.
        positions: int64 `[B * fed]`: of the new tokens; each sees what is not after it.
        page: Slots a block.
        scaling: Factor of the scores.
        window: Tokens that a token sees, itself included; None is all before it.
        softcap: Bounds the scores by `softcap * tanh(score / softcap)`.
        sinks: `[heads]`, a score that takes part in the softmax and has no value.

    Returns:
        `[B * fed, heads, value_dim]`, zeros where a token sees nothing.
    """
    rows, most = len(lengths), tables.shape[1] * page
    kv_heads, groups = keys.shape[0], query.shape[0] // keys.shape[0]
    slots = (tables[:, :, None] * page + torch.arange(page, device=tables.device)).view(-1)
    seen = torch.arange(most, device=tables.device)
    written = seen < lengths[:, None]
    # Past a sequence's end is memory that nobody has written: not even numbers.
    key, value = (
        whole.index_select(1, slots)
        .view(kv_heads, 1, rows, most, -1)
        .float()
        .masked_fill(~written[:, :, None], 0.0)
        for whole in (keys, values)
    )
    asked = query.reshape(kv_heads, groups, rows, -1, query.shape[-1]).float()
    scores = asked @ key.transpose(-1, -2) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    seeing = positions.view(rows, -1, 1)
    mask = (seen <= seeing) & written[:, None]
    if window is not None:
        mask &= seen > seeing - window
    scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        sink = sinks.float().view(kv_heads, groups, 1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sink], -1)
    shares = torch.softmax(scores, -1)[..., :most]
    # Rows that only fill the batch up see nothing: zeros, and not an empty softmax's NaN.
    found = shares.masked_fill(~mask, 0.0) @ value
    return found.reshape(query.shape[0], len(positions), -1).transpose(0, 1).to(query.dtype)
