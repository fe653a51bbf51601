"""Linear layers for a CPU: weights laid out once as the kernels want them, in bf16 or 8 bits.

At batch 1 nearly all time goes into reading weights; torch's own linear rearranges bf16 weights
in each call. `torch.ops.mkldnn` and `torch.ops.onednn` are what torch's compiler calls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_LEVELS = 127  # of a signed byte, symmetric
# Activations go in as unsigned bytes with this zero: for signed ones there is no fast kernel.
_ZERO = 128


class PackedLinear(nn.Module):
    """`nn.Linear` in bf16 with its weight rearranged; the same numbers come out."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.out_features, self.in_features = weight.shape
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in]` → `[..., out]`, both bf16."""
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
        weight = linear.weight.detach().float()
        self.out_features, self.in_features = weight.shape
        self._scales = weight.abs().amax(1).clamp(min=1e-12) / _LEVELS
        bytes_ = (weight / self._scales[:, None]).round().to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(bytes_, None)
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


def pack(model: Any, *, int8: bool) -> None:
    """Replace the model's linear layers, one after the other: no second copy of all weights.

    The last one, whose outputs are compared with each other, is never cut to 8 bits.
    """
    head = model.get_output_embeddings()
    packs = model.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is not nn.Linear:
                continue
            if int8 and child is not head:
                setattr(module, name, Int8Linear(child))
            elif packs:
                setattr(module, name, PackedLinear(child))
