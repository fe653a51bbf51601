"""Codes of 8 and 4 bits: near the weights, and back out of their bytes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llm_offline.engine.weights.quantization import (
    fits,
    from_int4,
    from_int8,
    group_size,
    pack,
    quantized_bytes,
    to_int4,
    to_int8,
    unpack,
    whole_group,
)


def _weight(outputs: int = 48, inputs: int = 192) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(3)) * 0.02


def _error(found: torch.Tensor, weight: torch.Tensor) -> float:
    return float((found.float() - weight).norm() / weight.norm())


def _rounded_to_extremes(weight: torch.Tensor, group: int) -> torch.Tensor:
    """Plain rounding to nearest, as a peer."""
    groups = weight.view(len(weight), -1, group)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    scale = (high - low) / 15
    return (((groups - low) / scale).round() * scale + low).view_as(weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_8_bits(dtype: torch.dtype) -> None:
    weight = _weight()
    codes, scales = to_int8(weight.to(dtype))
    assert codes.dtype == torch.int8
    assert int(codes.abs().amax()) == 127
    assert _error(from_int8(codes, scales, dtype), weight) < 0.01


def test_8_bits_of_small_numbers_in_fp16() -> None:
    """Their scales are below what fp16 can say."""
    weight = _weight() / 1000
    assert _error(from_int8(*to_int8(weight), torch.float16), weight) < 0.01


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_4_bits_are_nearer_than_rounding_between_extremes(group: int, dtype: torch.dtype) -> None:
    weight = _weight()
    codes, scales, zeros = to_int4(weight, group, dtype)
    assert int(codes.amax()) == 15
    assert scales.dtype == zeros.dtype == dtype
    error = _error(from_int4(codes, scales, zeros, torch.float32), weight)
    assert error < 0.97 * _error(_rounded_to_extremes(weight, group), weight)


def test_4_bits_of_equal_numbers() -> None:
    for number in (0.0, 0.5, -3.0):
        weight = torch.full((16, 64), number)
        assert torch.equal(from_int4(*to_int4(weight, 64), torch.float32), weight)


def test_pieces_are_quantized_like_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = _weight()
    whole8, whole4 = to_int8(weight), to_int4(weight, 64)
    monkeypatch.setattr("llm_offline.engine.weights.quantization._AT_ONCE", 192 * 7)
    assert all(map(torch.equal, to_int8(weight), whole8))
    assert all(map(torch.equal, to_int4(weight, 64), whole4))


@pytest.mark.parametrize("group", [32, 64])
def test_what_is_packed_comes_out(group: int) -> None:
    dice = torch.Generator().manual_seed(4)
    codes = torch.randint(0, 16, (16, 128), dtype=torch.uint8, generator=dice)
    packed = pack(codes, group)
    assert packed.shape == (16, 64)
    assert torch.equal(unpack(packed, group), codes)
    # The layout that the kernels read: halves of a group side by side.
    assert int(packed[0, 0]) == int(codes[0, 0]) | int(codes[0, group // 2]) << 4


def test_groups() -> None:
    assert [group_size(n) for n in (3072, 96, 100)] == [64, 32, None]
    with pytest.raises(ValueError, match="100 inputs"):
        whole_group(100)


def test_what_fits() -> None:
    class Own(nn.Linear):
        """May compute anything."""

    assert fits(nn.Linear(100, 7), 8)
    assert not fits(nn.Linear(100, 64), 4)
    assert not fits(nn.Linear(64, 7), 4)
    assert fits(nn.Linear(64, 16), 4)
    assert not fits(Own(64, 16), 8)
    assert not fits(nn.Embedding(64, 16), 8)


def test_bytes_are_those_of_the_tensors() -> None:
    linear = nn.Linear(192, 48, bias=False)
    for bits, tensors in (
        (8, to_int8(linear.weight.detach())),
        (4, (pack(to_int4(linear.weight.detach(), 64)[0], 64), *to_int4(linear.weight, 64)[1:])),
    ):
        assert quantized_bytes(linear, bits) == sum(t.numel() * t.element_size() for t in tensors)
