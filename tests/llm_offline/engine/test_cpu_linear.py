"""Rearranged weights give the same numbers; 8-bit ones nearly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llm_offline.engine.cpu_linear import Int8Linear, PackedLinear, pack
from tests.llm_offline.engine.models import CONFIGS, random_model

_BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _inputs(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(1, 7, 64, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.skipif(not _BF16, reason="this CPU has no bf16 kernels")
@pytest.mark.parametrize("bias", [False, True])
def test_packed_is_the_same(bias: bool) -> None:
    linear = nn.Linear(64, 96, bias=bias).bfloat16()
    x = _inputs(torch.bfloat16)
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(linear)(x), linear(x), atol=1e-2)


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


@pytest.mark.parametrize("int8", [False, True])
def test_a_whole_model(int8: bool) -> None:
    dtype = torch.float32 if int8 else torch.bfloat16
    model = random_model(CONFIGS["llama, tied weights"]()).to(dtype)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        before = model(ids).logits.float()
        embeddings = model.get_input_embeddings().weight.clone()
        pack(model, int8=int8)
        after = model(ids).logits.float()
    assert float((after - before).norm() / before.norm()) < 0.1
    assert torch.equal(model.get_input_embeddings().weight, embeddings)
    kinds = {type(module) for module in model.modules()}
    if int8:
        assert Int8Linear in kinds
        assert type(model.get_output_embeddings()) is nn.Linear
    elif _BF16:
        assert PackedLinear in kinds
        assert nn.Linear not in kinds
