"""Weights in 8 and 4 bits: how numbers become codes, and back. No calibration data, no hub.

**8 bits**: a scale an output, symmetric, rounded to nearest: `weight ≈ code * scale`.

**4 bits**: a scale and a zero for each group of `GROUP` numbers along the inputs,
`weight ≈ (code - 8) * scale + zero`, codes 0..15, which is what torch's kernel for CPUs reads, too.
Rounding to nearest between a group's extremes wastes levels on outliers. So the range begins a
little narrower, and scale and zero are then fitted to the codes by least squares, twice. That takes
5 % off the root mean square error of normally distributed weights, at 10 ns a weight; a search for
the best clipping takes no more off and is three times slower.
"""

from __future__ import annotations

import torch
from torch import nn

BITS = {"int8": 8, "int4": 4}
GROUPS = (64, 32)
"""Sizes of groups, the preferred first; a row must be a whole number of them."""

_LEVELS = 127  # of a signed byte, symmetric
_TOP = 15  # the largest of 4 bits' codes
_MIDDLE = 8
# Of the range between a group's extremes, before fitting; found by trying 1, .95, .9 and .85.
_SHRINK = 0.95
_FITS = 2
_AT_ONCE = 2**20  # numbers that are quantized together: bounds the temporaries, fits caches
# Outputs must be a multiple of it for torch's 4-bit kernel on CPUs; everywhere, so that what is
# measured on one device holds on another.
_OUTPUTS = 16


def group_size(in_features: int) -> int | None:
    """Numbers that share a scale, or None where a row cannot be cut into groups."""
    return next((size for size in GROUPS if in_features % size == 0), None)


def fits(module: nn.Module, bits: int) -> bool:
    """Whether a module is a linear layer of which there is a version in so many bits.

    Subclasses of `nn.Linear` may compute something else, so they stay as they are.
    """
    if type(module) is not nn.Linear:
        return False
    if bits == BITS["int8"]:
        return True
    return group_size(module.in_features) is not None and module.out_features % _OUTPUTS == 0


def whole_group(in_features: int) -> int:
    """As `group_size`.

    Raises:
        ValueError: A row cannot be cut into groups; `fits` tells before.
    """
    size = group_size(in_features)
    if size is None:
        raise ValueError(f"{in_features} inputs are no whole number of groups of {GROUPS}")
    return size


def quantized_bytes(linear: nn.Linear, bits: int) -> int:
    """Bytes of a layer's weight in so many bits, with its scales, without its bias."""
    outputs, inputs = linear.out_features, linear.in_features
    if bits == BITS["int8"]:
        return outputs * inputs + outputs * 4
    # A scale and a zero of 16 bits a group.
    return outputs * inputs // 2 + outputs * (inputs // whole_group(inputs)) * 4


def to_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`[out, in]` → codes int8 `[out, in]`, scales fp32 `[out]`."""
    codes = torch.empty_like(weight, dtype=torch.int8)
    scales = weight.new_empty(len(weight), dtype=torch.float32)
    for rows in _slices(weight):
        part = weight[rows].float()
        scales[rows] = part.abs().amax(1).clamp_(min=1e-12) / _LEVELS
        codes[rows] = (part / scales[rows, None]).round_()
    return codes, scales


def from_int8(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What `to_int8` made `[out, in]`, in `dtype`."""
    found = torch.empty_like(codes, dtype=dtype)
    # Multiplied in fp32: as fp16, a scale may be too small a number.
    return torch.mul(codes, scales[:, None], out=found)


def to_int4(
    weight: torch.Tensor, group: int, dtype: torch.dtype = torch.bfloat16
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`[out, in]` → codes uint8 `[out, in]`, scales and zeros in `dtype` `[out, in / group]`."""
    outputs, inputs = weight.shape
    codes = torch.empty_like(weight, dtype=torch.uint8)
    scales = weight.new_empty(outputs, inputs // group, dtype=dtype)
    zeros = torch.empty_like(scales)
    for rows in _slices(weight):
        groups = weight[rows].float().view(-1, inputs // group, group)
        scale, least = _fitted(groups)
        scales[rows] = scale[..., 0].to(dtype)
        zeros[rows] = (least + _MIDDLE * scale)[..., 0].to(dtype)
        # With scale and zero as they will be read: their rounding is then part of the error that
        # the codes make up for.
        scale, zero = scales[rows].float()[..., None], zeros[rows].float()[..., None]
        codes[rows] = _codes(groups, scale, zero - _MIDDLE * scale).view(-1, inputs)
    return codes, scales, zeros


def from_int4(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """What `to_int4` made `[out, in]`, in `dtype`."""
    outputs, inputs = codes.shape
    groups = codes.view(outputs, scales.shape[1], -1).float() - _MIDDLE
    found = groups * scales[..., None].float() + zeros[..., None].float()
    return found.view(outputs, inputs).to(dtype)


def pack(codes: torch.Tensor, group: int) -> torch.Tensor:
    """Two codes a byte: `[out, in]` → uint8 `[out, in / 2]`.

    A byte's low half is of the first half of a group and its high half of the second: neighbouring
    bytes are then neighbouring numbers, and a kernel need not interleave what it has taken apart.
    """
    outputs, inputs = codes.shape
    halves = codes.view(outputs, inputs // group, 2, group // 2)
    return (halves[:, :, 0] | halves[:, :, 1] << 4).reshape(outputs, inputs // 2)


def unpack(packed: torch.Tensor, group: int) -> torch.Tensor:
    """The codes that `pack` packed: uint8 `[out, in]`."""
    outputs, half = packed.shape
    bytes_ = packed.view(outputs, 2 * half // group, 1, group // 2)
    return torch.cat([bytes_ & _TOP, bytes_ >> 4], dim=2).view(outputs, 2 * half)


def _fitted(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and the value of code 0 for `[..., group]`: `[..., 1]` each."""
    low, high = groups.aminmax(dim=-1, keepdim=True)
    spread = (high - low) * _SHRINK
    scale, least = spread / _TOP, (high + low - spread) / 2
    mean = groups.mean(-1, keepdim=True)
    for _ in range(_FITS):
        codes = _codes(groups, scale, least)
        middle = codes.mean(-1, keepdim=True)
        codes -= middle
        # The slope and intercept of a regression of the numbers on their codes.
        slope = (codes * groups).sum(-1, keepdim=True)
        slope /= codes.square_().sum(-1, keepdim=True).clamp_(min=1e-8)
        scale, least = slope, mean - slope * middle
    return scale, least


def _codes(groups: torch.Tensor, scale: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    # A group of equal numbers has scale 0: its zero says it all.
    divisor = torch.where(scale.abs() < 1e-12, 1.0, scale)
    return ((groups - least) / divisor).round_().clamp_(0, _TOP)


def _slices(weight: torch.Tensor) -> list[slice]:
    rows = max(1, _AT_ONCE // weight.shape[1])
    return [slice(at, at + rows) for at in range(0, len(weight), rows)]
