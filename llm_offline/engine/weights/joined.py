"""Linear layers that read the same input, computed as one product.

On a CPU a small product takes little longer than the call, and with 8-bit activations the input is
rounded once and not three times. vLLM merges the same layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that read the same input in the model code of Llama and those after it. Where one
does not, its numbers are right all the same, and computed alone."""


def siblings(places: Sequence[tuple[nn.Module, str]]) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """Linear layers `(parent, name)`, those that can be one product together, in the same order."""
    names: dict[nn.Module, set[str]] = {}
    for parent, name in places:
        names.setdefault(parent, set()).add(name)
    found: dict[tuple[nn.Module, tuple[str, ...]], None] = {}
    for parent, name in places:
        group = next((group for group in SIBLINGS if name in group), (name,))
        whole = set(group) <= names[parent] and _alike([getattr(parent, one) for one in group])
        found[parent, group if whole else (name,)] = None
    return list(found)


def replace(
    parent: nn.Module, names: tuple[str, ...], made: Callable[[nn.Linear], nn.Module]
) -> None:
    """Put `made(linear)` in the place of a linear layer, or of several that become one product."""
    if len(names) == 1:
        setattr(parent, names[0], made(getattr(parent, names[0])))
        return
    layers = [getattr(parent, name) for name in names]
    sizes = [layer.out_features for layer in layers]
    product = Product(made(_concatenated(layers)), sizes)
    for at, name in enumerate(names):
        setattr(parent, name, Part(product, at))


class Product(nn.Module):
    """Several linear layers as one, whose parts are asked for one after the other."""

    def __init__(self, linear: nn.Module, sizes: list[int]) -> None:
        """`linear`: `[..., in]` → `[..., sum(sizes)]`."""
        super().__init__()
        self._linear = linear
        self._sizes = sizes
        self._input: torch.Tensor | None = None
        self._outputs: dict[int, torch.Tensor] = {}

    def part(self, x: torch.Tensor, at: int) -> torch.Tensor:
        """`[..., sizes[at]]`; nothing is kept once each part of an input was taken."""
        if x is not self._input or at not in self._outputs:
            outputs = self._linear(x).split(self._sizes, -1)
            self._input, self._outputs = x, dict(enumerate(outputs))
        found = self._outputs.pop(at)
        if not self._outputs:
            self._input = None
        return found

    def forget(self) -> None:
        """Let go what was computed and not asked for: a step may have failed between two parts."""
        if self._input is not None:
            self._input, self._outputs = None, {}


class Part(nn.Module):
    """One layer of a `Product`, in its place in the model."""

    def __init__(self, product: Product, at: int) -> None:
        super().__init__()
        self._product = product
        self._at = at

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in]` → `[..., out]`."""
        return self._product.part(x, self._at)


def _alike(layers: Sequence[nn.Linear]) -> bool:
    return len({(one.in_features, one.bias is None, one.weight.dtype) for one in layers}) == 1


def _concatenated(layers: Sequence[nn.Linear]) -> nn.Linear:
    """One layer with the outputs of all, and a copy of their weights."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    whole = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    whole.weight = nn.Parameter(weight, requires_grad=False)
    if layers[0].bias is not None:
        biases = torch.cat([layer.bias.detach() for layer in layers])
        whole.bias = nn.Parameter(biases, requires_grad=False)
    return whole
