"""Linear layers for a CPU: weights laid out once as the kernels want them, whole, in 8 or 4 bits.

At batch 1 nearly all time goes into reading weights; torch's own linear rearranges them in each
call. `torch.ops.mkldnn` and `torch.ops.onednn` are what torch's compiler calls.
"""

from __future__ import annotations

import torch
from torch import nn

from llm_offline.engine.weights.quantization import to_int4, to_int8, whole_group

_LEVELS = 127  # of a signed byte, symmetric
# Activations go in as unsigned bytes with this zero: for signed ones there is no fast kernel.
_ZERO = 128


def packs(dtype: torch.dtype) -> bool:
    """Whether this CPU has the kernels of `PackedLinear` for `dtype`; computes nothing."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    is_x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return available and is_x86 and dtype == torch.float32


class PackedLinear(nn.Module):
    """`nn.Linear` in bf16 or fp32 with its weight rearranged.

    The same numbers come out, but for the order in which products are added up.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.out_features, self.in_features = weight.shape
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in]` → `[..., out]`, both in the weight's dtype."""
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, "none", [], ""
        )
        return found


class Int8Linear(nn.Module):
    """`nn.Linear` with 8-bit weights (a scale an output) and activations (a scale a token).

    A scale for each token, not for the whole tensor: else a request's numbers would depend on
    what else is in the batch.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        codes, self._scales = to_int8(linear.weight.detach())
        self._weight = torch.ops.onednn.qlinear_prepack(codes, None)
        self._zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self._bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in]` → `[..., out]`, in the dtype of `x`."""
        rows = x.reshape(-1, self.in_features).float()
        scales = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / _LEVELS
        found = torch.ops.onednn.qlinear_pointwise(
            (rows / scales).round_().add_(_ZERO).to(torch.uint8),
            1.0,
            _ZERO,
            self._weight,
            self._scales,
            self._zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        found *= scales
        if self._bias is not None:
            found += self._bias
        result: torch.Tensor = found.to(x.dtype).view(*x.shape[:-1], self.out_features)
        return result


class Int4Linear(nn.Module):
    """`nn.Linear` with 4-bit weights; computes in bf16 whatever `x` is in.

    torch's kernel reads each weight once for four rows, and takes the codes apart anew for the next
    four: one row is fast, a long prompt slower than with weights in bf16. In fp32 it has no fast
    version at all (50 times slower where it was tried).
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        group = whole_group(self.in_features)
        self._group = group
        codes, scales, zeros = to_int4(linear.weight.detach(), group)
        # The second argument matters on GPUs only.
        self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
        self._scales = torch.stack([scales.t(), zeros.t()], dim=-1).contiguous()
        self._bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in]` → `[..., out]`, in the dtype of `x`."""
        rows = x.reshape(-1, self.in_features).bfloat16()
        found: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self._weight, self._group, self._scales
        )
        if self._bias is not None:
            found = found + self._bias
        return found.to(x.dtype).view(*x.shape[:-1], self.out_features)
