"""Rearranged weights give the same numbers; 8-bit and 4-bit ones nearly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llm_offline.engine.weights.cpu_linear import Int4Linear, Int8Linear, PackedLinear, packs
from llm_offline.engine.weights.quantization import from_int4, to_int4


def _inputs(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(1, 7, 64, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 1e-2), (torch.float32, 1e-6)])
@pytest.mark.parametrize("bias", [False, True])
def test_packed_is_the_same(bias: bool, dtype: torch.dtype, near: float) -> None:
    if not packs(dtype):
        pytest.skip("this CPU has no such kernels")
    linear = nn.Linear(64, 96, bias=bias).to(dtype)
    x = _inputs(dtype)
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(linear)(x), linear(x), atol=near)


def test_there_are_no_kernels_for_fp16() -> None:
    assert not packs(torch.float16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bias", [False, True])
def test_int8_is_near_and_knows_no_neighbours(bias: bool, dtype: torch.dtype) -> None:
    linear = nn.Linear(64, 96, bias=bias).to(dtype)
    x = _inputs(dtype)
    with torch.inference_mode():
        quantized = Int8Linear(linear)
        found, exact = quantized(x).float(), linear(x).float()
        assert float((found - exact).norm() / exact.norm()) < 0.02
        alone = torch.cat([quantized(x[:, n : n + 1]) for n in range(7)], dim=1)
        assert torch.equal(alone.float(), found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("inputs", [64, 96])
def test_int4_is_what_its_codes_say(bias: bool, dtype: torch.dtype, inputs: int) -> None:
    """torch's own packing reads our codes, scales and zeros as we mean them."""
    linear = nn.Linear(inputs, 96, bias=bias).to(dtype)
    x = torch.randn(1, 7, inputs, generator=torch.Generator().manual_seed(1)).to(dtype)
    group = 64 if inputs == 64 else 32
    with torch.inference_mode():
        found = Int4Linear(linear)(x)
        weight = from_int4(*to_int4(linear.weight.detach(), group), torch.float32)
        meant = nn.functional.linear(x.float(), weight, linear.bias.float() if bias else None)
    assert found.dtype == dtype
    assert found.shape == (1, 7, 96)
    assert float((found.float() - meant).norm() / meant.norm()) < 0.01


def test_int4_knows_no_neighbours() -> None:
    linear = nn.Linear(128, 64).bfloat16()
    x = torch.randn(37, 128, generator=torch.Generator().manual_seed(2)).bfloat16()
    with torch.inference_mode():
        quantized = Int4Linear(linear)
        together = quantized(x)
        alone = torch.cat([quantized(x[n : n + 1]) for n in range(len(x))])
    assert torch.equal(alone, together)
