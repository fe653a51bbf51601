"""Linear layers for a GPU whose weights stay in 8 or 4 bits.

The two products are operators of PyTorch's own (`torch.ops.llm_offline.linear8`, `linear4`), so
that a compiler or a CUDA graph takes them as they are. On an NVIDIA GPU Triton kernels compute them
(`triton_matmul`); anywhere else, and where Triton is missing, the weights are written out for each
product: the memory is saved, the time is not.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn
from torch.nn import functional

from llm_offline.engine.quantization import (
    from_int4,
    from_int8,
    pack,
    to_int4,
    to_int8,
    unpack,
    whole_group,
)

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
    return functional.linear(x, from_int8(codes, scales, x.dtype))


@torch.library.custom_op("llm_offline::linear4", mutates_args=())
def linear4(
    x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    """`[rows, in]` by what `to_int4` and `pack` made → `[rows, out]`."""
    group = x.shape[1] // scales.shape[1]
    return functional.linear(x, from_int4(unpack(packed, group), scales, zeros, x.dtype))


@linear8.register_fake
def _(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], codes.shape[0])


@linear4.register_fake
def _(
    x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    return x.new_empty(x.shape[0], packed.shape[0])


if HAS_TRITON:
    # The import itself costs a second and is needed on a GPU only.
    @linear8.register_kernel("cuda")
    def _(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        from llm_offline.engine import triton_matmul

        if len(x) > triton_matmul.FEW_ROWS:
            return functional.linear(x, from_int8(codes, scales, x.dtype))
        # Triton launches on the current device, which need not be the tensors'.
        with torch.cuda.device(x.device):
            return triton_matmul.times_int8(x.contiguous(), codes, scales)

    @linear4.register_kernel("cuda")
    def _(
        x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
    ) -> torch.Tensor:
        from llm_offline.engine import triton_matmul

        with torch.cuda.device(x.device):
            if len(x) <= triton_matmul.FEW_ROWS:
                return triton_matmul.times_int4(x.contiguous(), packed, scales, zeros)
            weight = triton_matmul.write_int4(packed, scales, zeros, x.dtype)
        return functional.linear(x, weight)
