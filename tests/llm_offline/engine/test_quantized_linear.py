"""The layers for GPUs, computed here by what the kernels must equal; the kernels, interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from llm_offline.engine.quantized_linear import Linear4, Linear8

KINDS = {"int8": (Linear8, 0.01), "int4": (Linear4, 0.15)}
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="there is no Triton")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_near_the_layer_and_without_neighbours(kind: str, dtype: torch.dtype, bias: bool) -> None:
    made, near = KINDS[kind]
    linear = nn.Linear(192, 48, bias=bias)
    x = torch.randn(2, 5, 192, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        layer = made(linear, device="cpu", dtype=dtype)
        found, exact = layer(x.to(dtype)), linear(x)
        assert found.dtype == dtype
        assert found.shape == exact.shape
        assert float((found.float() - exact).norm() / exact.norm()) < near
        alone = layer(x[1:, 3:4].to(dtype))
        assert torch.allclose(alone, found[1:, 3:4], atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_buffers_move_with_the_model(kind: str) -> None:
    made, _ = KINDS[kind]
    layer = made(nn.Linear(64, 16), device="cpu", dtype=torch.float32).to("meta")
    assert {buffer.device.type for buffer in layer.buffers()} == {"meta"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiler_takes_them_as_they_are(kind: str) -> None:
    """One graph, with the right shapes: what CUDA graphs and `torch.compile` need."""
    made, _ = KINDS[kind]
    layer = made(nn.Linear(64, 32), device="cpu", dtype=torch.float32)
    x = torch.randn(3, 64)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.equal(compiled(x), layer(x))
    tensors = tuple(layer.buffers())[: 2 if kind == "int8" else 3]
    operator = torch.ops.llm_offline.linear8 if kind == "int8" else torch.ops.llm_offline.linear4
    torch.library.opcheck(operator.default, (x, *tensors))


@needs_triton
def test_the_kernels_equal_their_references() -> None:
    """In a process of its own: Triton reads once whether it is to interpret."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.llm_offline.engine.triton_checks", "interpret"],
        cwd=Path(__file__).resolve().parents[3],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "equal"


@needs_triton
@pytest.mark.slow
def test_the_kernels_compile_for_gpus_that_are_not_here() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.llm_offline.engine.triton_checks", "compile"],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "compiled"
