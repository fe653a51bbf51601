"""The layers for GPUs, computed here by what the kernels must equal; the kernels, interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from llm_offline.engine import weights
from llm_offline.engine.weights import quantized_linear
from llm_offline.engine.weights.quantization import from_int4, unpack
from llm_offline.engine.weights.quantized_linear import (
    Linear4,
    Linear8,
    product4,
    product8,
    working_kernels,
)

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


class Kernels:
    """In place of `triton_matmul`: its contract in plain PyTorch, or the failure of its launch."""

    FEW_ROWS = 4

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.calls: list[tuple[str, int]] = []

    def times_int8(
        self, x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor
    ) -> torch.Tensor:
        self._called("times_int8", len(x))
        return product8(x, codes, scales, None)

    def times_int4(
        self, x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
    ) -> torch.Tensor:
        self._called("times_int4", len(x))
        return product4(x, packed, scales, zeros, None)

    def write_int4(
        self, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        self._called("write_int4", 0)
        group = 2 * packed.shape[1] // scales.shape[1]
        return from_int4(unpack(packed, group), scales, zeros, dtype)

    def _called(self, name: str, rows: int) -> None:
        self.calls.append((name, rows))
        if self.failure is not None:
            raise self.failure


def _tried(
    kernels: Kernels, bits: Literal[8, 4], monkeypatch: pytest.MonkeyPatch
) -> quantized_linear.Kernels | None:
    """On this CPU, as on a GPU whose kernels they are."""
    monkeypatch.setattr(weights, "triton_matmul", kernels, raising=False)
    working_kernels.cache_clear()
    try:
        found = [working_kernels(bits, torch.device("cpu"), torch.float32) for _ in range(2)]
    finally:
        working_kernels.cache_clear()
    assert found[0] is found[1]
    return found[0]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("Failed to find C compiler. Please specify via CC\n  more"),
        subprocess.CalledProcessError(1, ["gcc"]),
        TypeError("launch"),
        AssertionError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_kernels_that_cannot_be_built_are_left_out(
    bits: Literal[8, 4],
    failure: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kernels = Kernels(failure)
    assert _tried(kernels, bits, monkeypatch) is None
    assert len(kernels.calls) == 1
    (line,) = caplog.messages
    assert line.startswith(f"int{bits} saves memory only, and time not: its Triton kernels do not")
    assert "\n" not in line


@pytest.mark.parametrize("bits", [8, 4])
def test_kernels_that_work_are_tried_with_few_rows_and_one(
    bits: Literal[8, 4], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kernels = Kernels()
    assert _tried(kernels, bits, monkeypatch) is kernels
    assert {rows for name, rows in kernels.calls if name == f"times_int{bits}"} == {1, 4}
    assert (("write_int4", 0) in kernels.calls) == (bits == 4)
    assert not caplog.messages


def test_running_out_of_memory_says_nothing_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        _tried(Kernels(torch.OutOfMemoryError("CUDA out of memory")), 8, monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 4, 5])
def test_few_rows_are_the_kernels(kind: str, rows: int) -> None:
    """And many the library's, of weights that were written out."""
    made, _ = KINDS[kind]
    layer = made(nn.Linear(128, 32, bias=False), device="cpu", dtype=torch.float32)
    x = torch.randn(rows, 128, generator=torch.Generator().manual_seed(1))
    kernels = Kernels()
    codes, *rest = layer.buffers()
    if kind == "int8":
        found = product8(x, codes, rest[0], kernels)
    else:
        found = product4(x, codes, rest[0], rest[1], kernels)
    assert torch.allclose(found, layer(x), atol=1e-5)
    many = [] if kind == "int8" else [("write_int4", 0)]
    assert kernels.calls == ([(f"times_{kind}", rows)] if rows <= 4 else many)


@needs_triton
def test_the_kernels_equal_their_references() -> None:
    """In a process of its own: Triton reads once whether it is to interpret."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.llm_offline.engine.weights.triton_checks", "interpret"],
        cwd=Path(__file__).resolve().parents[4],
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
        [sys.executable, "-m", "tests.llm_offline.engine.weights.triton_checks", "compile"],
        cwd=Path(__file__).resolve().parents[4],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "compiled"
