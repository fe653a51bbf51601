"""Linear layers for a GPU whose weights stay in 8 or 4 bits.

The two products are operators of PyTorch's own (`torch.ops.llm_offline.linear8`, `linear4`), so
that a compiler or a CUDA graph takes them as they are. On an NVIDIA GPU Triton kernels compute them
(`triton_matmul`); anywhere else, and where Triton is missing or can build none, the weights are
written out for each product: the memory is saved, the time is not.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Literal, Protocol

import torch
from torch import nn
from torch.nn import functional

from llm_offline.engine.hardware.device import lacks_memory
from llm_offline.engine.weights.quantization import (
    GROUPS,
    from_int4,
    from_int8,
    pack,
    to_int4,
    to_int8,
    unpack,
    whole_group,
)
from llm_offline.errors import first_line

log = logging.getLogger(__name__)

HAS_TRITON = find_spec("triton") is not None
"""PyTorch brings it along on Linux with CUDA, and nowhere else."""


class Linear8(nn.Module):
    """`nn.Linear` with 8-bit weights, a scale an output."""

    codes: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear, *, device: str, dtype: torch.dtype) -> None:
        """Quantizes on `device`, where the result stays; computes in `dtype`."""
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        codes, scales = to_int8(linear.weight.detach().to(device))
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", _bias(linear, device, dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in]` → `[..., out]`, in the dtype of `x`."""
        rows = x.reshape(-1, self.in_features)
        found: torch.Tensor = torch.ops.llm_offline.linear8(rows, self.codes, self.scales)
        return _shaped(found, self.bias, x)


class Linear4(nn.Module):
    """`nn.Linear` with 4-bit weights, a scale and a zero a group."""

    packed: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear, *, device: str, dtype: torch.dtype) -> None:
        """Quantizes on `device`, where the result stays; computes in `dtype`."""
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        group = whole_group(self.in_features)
        small = torch.float16 if dtype == torch.float16 else torch.bfloat16
        codes, scales, zeros = to_int4(linear.weight.detach().to(device), group, small)
        self.register_buffer("packed", pack(codes, group))
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", zeros)
        self.register_buffer("bias", _bias(linear, device, dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in]` → `[..., out]`, in the dtype of `x`."""
        rows = x.reshape(-1, self.in_features)
        found: torch.Tensor = torch.ops.llm_offline.linear4(
            rows, self.packed, self.scales, self.zeros
        )
        return _shaped(found, self.bias, x)


def _bias(linear: nn.Linear, device: str, dtype: torch.dtype) -> torch.Tensor | None:
    return None if linear.bias is None else linear.bias.detach().to(device, dtype)


def _shaped(found: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    if bias is not None:
        found = found + bias
    return found.view(*x.shape[:-1], -1)


@torch.library.custom_op("llm_offline::linear8", mutates_args=())
def linear8(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """`[rows, in]` by what `to_int8` made → `[rows, out]`."""
    return product8(x, codes, scales, None)


@torch.library.custom_op("llm_offline::linear4", mutates_args=())
def linear4(
    x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    """`[rows, in]` by what `to_int4` and `pack` made → `[rows, out]`."""
    return product4(x, packed, scales, zeros, None)


@linear8.register_fake
def _(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], codes.shape[0])


@linear4.register_fake
def _(
    x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    return x.new_empty(x.shape[0], packed.shape[0])


class Kernels(Protocol):
    """What `triton_matmul` has."""

    FEW_ROWS: int

    def times_int8(
        self, x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor
    ) -> torch.Tensor:
        """`linear8` of few rows."""
        ...

    def times_int4(
        self, x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
    ) -> torch.Tensor:
        """`linear4` of few rows."""
        ...

    def write_int4(
        self, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """The weights themselves."""
        ...


@cache
def working_kernels(
    bits: Literal[8, 4], device: torch.device, dtype: torch.dtype
) -> Kernels | None:
    """Triton's kernels, if they work there; tried once, with a line in the log if they do not.

    Triton may be there without a C compiler, which it needs, and GPUs may be too old for it.
    """
    try:
        # Only here: the import costs a second and is needed on a GPU only.
        from llm_offline.engine.weights import triton_matmul

        _try(triton_matmul, bits, device, dtype)
    except Exception as error:
        # Any kind: a compiler that is missing, one that gives up, a driver that refuses a launch.
        if lacks_memory(error):
            raise
        log.debug("Triton's kernels failed where they were tried", exc_info=True)
        log.warning(
            "int%d saves memory only, and time not: its Triton kernels do not work here: %s",
            bits,
            first_line(error),
        )
        return None
    return triton_matmul


def _try(kernels: Kernels, bits: Literal[8, 4], device: torch.device, dtype: torch.dtype) -> None:
    """Run each kernel once, on small weights; raises whatever does not work."""
    outputs, inputs = 32, 4 * GROUPS[0]
    for rows in (1, kernels.FEW_ROWS):
        x = torch.zeros(rows, inputs, dtype=dtype, device=device)
        if bits == 8:
            codes = torch.zeros(outputs, inputs, dtype=torch.int8, device=device)
            with _on(x):
                kernels.times_int8(x, codes, torch.zeros(outputs, device=device))
        else:
            packed = torch.zeros(outputs, inputs // 2, dtype=torch.uint8, device=device)
            small = torch.float16 if dtype == torch.float16 else torch.bfloat16
            scales = torch.zeros(outputs, inputs // GROUPS[0], dtype=small, device=device)
            with _on(x):
                kernels.times_int4(x, packed, scales, scales)
                kernels.write_int4(packed, scales, scales, dtype)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # what a kernel did wrong is told here at the latest


def product8(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, kernels: Kernels | None
) -> torch.Tensor:
    """`linear8`, by `kernels` where they are faster."""
    if kernels is None or len(x) > kernels.FEW_ROWS:
        return functional.linear(x, from_int8(codes, scales, x.dtype))
    with _on(x):
        return kernels.times_int8(x.contiguous(), codes, scales)


def product4(
    x: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    kernels: Kernels | None,
) -> torch.Tensor:
    """`linear4`, by `kernels` where they are faster."""
    if kernels is None:
        group = x.shape[1] // scales.shape[1]
        return functional.linear(x, from_int4(unpack(packed, group), scales, zeros, x.dtype))
    with _on(x):
        if len(x) <= kernels.FEW_ROWS:
            return kernels.times_int4(x.contiguous(), packed, scales, zeros)
        weight = kernels.write_int4(packed, scales, zeros, x.dtype)
    return functional.linear(x, weight)


def _on(x: torch.Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


if HAS_TRITON:

    @linear8.register_kernel("cuda")
    def _(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return product8(x, codes, scales, working_kernels(8, x.device, x.dtype))

    @linear4.register_kernel("cuda")
    def _(
        x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
    ) -> torch.Tensor:
        return product4(x, packed, scales, zeros, working_kernels(4, x.device, x.dtype))
