"""A few rows times weights in 8 or 4 bits, as Triton kernels: the weights are read as they lie.

While a model answers, a step has a few rows (one a sequence, some more with guesses) and takes as
long as reading the weights takes. So codes become numbers in registers, just before the product.
With many rows, a prompt's, the arithmetic takes longest and the libraries' own products are best:
there the weights are written out once, by a kernel that reads the codes just as well.

Rows do not know each other: sums run over the inputs in an order that depends on the shapes alone.

`TRITON_INTERPRET=1`, set before the import, runs the kernels on a CPU, for tests.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl

FEW_ROWS = 64
"""Rows up to which a step's time is that of reading the weights."""
_SINGLE = 2  # rows up to which each is computed on its own, without tensor cores
_LEAST_ROWS = 16  # of a product on tensor cores


@triton.jit
def _single8(
    x, codes, scales, found, outputs, inputs, tall: tl.constexpr, wide: tl.constexpr
):  # fmt: skip
    """Row `program 1` of x times `tall` rows of codes (`program 0`)."""
    out = tl.program_id(0) * tall + tl.arange(0, tall)
    row = tl.program_id(1)
    some = (out < outputs)[:, None]
    total = tl.zeros((tall, wide), dtype=tl.float32)
    for start in range(0, inputs, wide):
        at = start + tl.arange(0, wide)
        given = tl.load(x + row * inputs + at, mask=at < inputs, other=0.0).to(tl.float32)
        where = codes + out[:, None].to(tl.int64) * inputs + at[None, :]
        code = tl.load(where, mask=some & (at < inputs)[None, :], other=0)
        total += code.to(tl.float32) * given[None, :]
    scale = tl.load(scales + out, mask=out < outputs, other=0.0)
    result = tl.sum(total, axis=1) * scale
    tl.store(found + row * outputs + out, result.to(found.dtype.element_ty), mask=out < outputs)


@triton.jit
def _few8(
    x, codes, scales, found, rows, outputs, inputs,
    padded: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """All rows of x (at most `padded`) times `tall` rows of codes."""
    out = tl.program_id(0) * tall + tl.arange(0, tall)
    row = tl.arange(0, padded)
    total = tl.zeros((padded, tall), dtype=tl.float32)
    for start in range(0, inputs, wide):
        at = start + tl.arange(0, wide)
        there = at < inputs
        given = tl.load(
            x + row[:, None] * inputs + at[None, :],
            mask=(row < rows)[:, None] & there[None, :], other=0.0,
        )  # fmt: skip
        where = codes + out[None, :].to(tl.int64) * inputs + at[:, None]
        code = tl.load(where, mask=there[:, None] & (out < outputs)[None, :], other=0)
        total = tl.dot(given, code.to(given.dtype), total, input_precision="ieee")
    scale = tl.load(scales + out, mask=out < outputs, other=0.0)
    tl.store(
        found + row[:, None] * outputs + out[None, :],
        (total * scale[None, :]).to(found.dtype.element_ty),
        mask=(row < rows)[:, None] & (out < outputs)[None, :],
    )


@triton.jit
def _single4(
    x, packed, scales, zeros, found, outputs, inputs,
    group: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """As `_single8`, over `wide` bytes of two codes each."""
    half: tl.constexpr = group // 2
    out = tl.program_id(0) * tall + tl.arange(0, tall)
    row = tl.program_id(1)
    some = (out < outputs)[:, None]
    total = tl.zeros((tall, wide), dtype=tl.float32)
    for start in range(0, inputs // 2, wide):
        byte = start + tl.arange(0, wide)
        there = byte < inputs // 2
        low = byte // half * group + byte % half
        first = tl.load(x + row * inputs + low, mask=there, other=0.0).to(tl.float32)
        second = tl.load(x + row * inputs + low + half, mask=there, other=0.0).to(tl.float32)
        long = out[:, None].to(tl.int64)
        mask = some & there[None, :]
        code = tl.load(packed + long * (inputs // 2) + byte[None, :], mask=mask, other=0)
        which = long * (inputs // group) + (byte // half)[None, :]
        scale = tl.load(scales + which, mask=mask, other=0.0).to(tl.float32)
        zero = tl.load(zeros + which, mask=mask, other=0.0).to(tl.float32)
        value = ((code & 15).to(tl.float32) - 8.0) * scale + zero
        total += value * first[None, :]
        value = ((code >> 4).to(tl.float32) - 8.0) * scale + zero
        total += value * second[None, :]
    result = tl.sum(total, axis=1)
    tl.store(found + row * outputs + out, result.to(found.dtype.element_ty), mask=out < outputs)


@triton.jit
def _few4(
    x, packed, scales, zeros, found, rows, outputs, inputs, group: tl.constexpr,
    padded: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """As `_few8`, over `wide` bytes of two codes each."""
    half: tl.constexpr = group // 2
    out = tl.program_id(0) * tall + tl.arange(0, tall)
    row = tl.arange(0, padded)
    total = tl.zeros((padded, tall), dtype=tl.float32)
    for start in range(0, inputs // 2, wide):
        byte = start + tl.arange(0, wide)
        there = byte < inputs // 2
        low = byte // half * group + byte % half
        asked = (row < rows)[:, None] & there[None, :]
        place = x + row[:, None] * inputs + low[None, :]
        first = tl.load(place, mask=asked, other=0.0)
        second = tl.load(place + half, mask=asked, other=0.0)
        long = out[None, :].to(tl.int64)
        mask = there[:, None] & (out < outputs)[None, :]
        code = tl.load(packed + long * (inputs // 2) + byte[:, None], mask=mask, other=0)
        which = long * (inputs // group) + (byte // half)[:, None]
        scale = tl.load(scales + which, mask=mask, other=0.0).to(tl.float32)
        zero = tl.load(zeros + which, mask=mask, other=0.0).to(tl.float32)
        value = ((code & 15).to(tl.float32) - 8.0) * scale + zero
        total = tl.dot(first, value.to(first.dtype), total, input_precision="ieee")
        value = ((code >> 4).to(tl.float32) - 8.0) * scale + zero
        total = tl.dot(second, value.to(first.dtype), total, input_precision="ieee")
    tl.store(
        found + row[:, None] * outputs + out[None, :],
        total.to(found.dtype.element_ty),
        mask=(row < rows)[:, None] & (out < outputs)[None, :],
    )


@triton.jit
def _write4(
    packed, scales, zeros, found, inputs, group: tl.constexpr, wide: tl.constexpr
):  # fmt: skip
    """The weights of output `program 0`, bytes `program 1 * wide` on."""
    half: tl.constexpr = group // 2
    out = tl.program_id(0).to(tl.int64)
    byte = tl.program_id(1) * wide + tl.arange(0, wide)
    there = byte < inputs // 2
    code = tl.load(packed + out * (inputs // 2) + byte, mask=there, other=0)
    which = out * (inputs // group) + byte // half
    scale = tl.load(scales + which, mask=there, other=0.0).to(tl.float32)
    zero = tl.load(zeros + which, mask=there, other=0.0).to(tl.float32)
    place = found + out * inputs + byte // half * group + byte % half
    value = ((code & 15).to(tl.float32) - 8.0) * scale + zero
    tl.store(place, value.to(found.dtype.element_ty), mask=there)
    value = ((code >> 4).to(tl.float32) - 8.0) * scale + zero
    tl.store(place + half, value.to(found.dtype.element_ty), mask=there)


def times_int8(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """`[rows, in]` by int8 `[out, in]` → `[rows, out]` in the dtype of `x`; few rows."""
    rows, inputs = x.shape
    outputs = len(codes)
    found = x.new_empty(rows, outputs)
    if rows <= _SINGLE:
        grid = (triton.cdiv(outputs, 8), rows)
        _single8[grid](x, codes, scales, found, outputs, inputs, tall=8, wide=512, num_warps=4)
    else:
        grid = (triton.cdiv(outputs, 32), 1)
        _few8[grid](x, codes, scales, found, rows, outputs, inputs,
                    padded=_padded(rows), tall=32, wide=128, num_warps=4)  # fmt: skip
    return found


def times_int4(
    x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    """`[rows, in]` by packed `[out, in / 2]` → `[rows, out]` in the dtype of `x`; few rows."""
    rows, inputs = x.shape
    outputs = len(packed)
    group = inputs // scales.shape[1]
    found = x.new_empty(rows, outputs)
    if rows <= _SINGLE:
        grid = (triton.cdiv(outputs, 8), rows)
        _single4[grid](x, packed, scales, zeros, found, outputs, inputs,
                       group=group, tall=8, wide=256, num_warps=4)  # fmt: skip
    else:
        grid = (triton.cdiv(outputs, 32), 1)
        _few4[grid](x, packed, scales, zeros, found, rows, outputs, inputs,
                    group=group, padded=_padded(rows), tall=32, wide=64, num_warps=4)  # fmt: skip
    return found


def write_int4(
    packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The weights themselves, `[out, in]` in `dtype`."""
    outputs, half = packed.shape
    found = packed.new_empty(outputs, 2 * half, dtype=dtype)
    group = 2 * half // scales.shape[1]
    _write4[(outputs, triton.cdiv(half, 1024))](
        packed, scales, zeros, found, 2 * half, group=group, wide=1024, num_warps=4
    )
    return found


def _padded(rows: int) -> int:
    return max(_LEAST_ROWS, int(triton.next_power_of_2(rows)))
