"""Layers that became one product give what each of them gave."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llm_offline.engine.weights.joined import Part, replace, siblings


class Attention(nn.Module):
    """Three layers that can be one, and one that can not."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.q_proj = nn.Linear(8, 6, bias=bias)
        self.k_proj = nn.Linear(8, 2, bias=bias)
        self.v_proj = nn.Linear(8, 2, bias=bias)
        self.o_proj = nn.Linear(6, 8, bias=bias)

    def places(self) -> list[tuple[nn.Module, str]]:
        return [(self, name) for name, _ in self.named_children()]


NAMES = ("q_proj", "k_proj", "v_proj")


def test_which_are_siblings() -> None:
    one, other = Attention(), Attention()
    found = siblings([*one.places(), *other.places()])
    assert found == [
        (one, NAMES), (one, ("o_proj",)), (other, NAMES), (other, ("o_proj",)),
    ]  # fmt: skip


@pytest.mark.parametrize("unlike", ["inputs", "bias", "dtype", "missing"])
def test_what_differs_stays_apart(unlike: str) -> None:
    module = Attention()
    if unlike == "missing":
        del module.v_proj
    else:
        module.v_proj = {
            "inputs": nn.Linear(4, 2, bias=False),
            "bias": nn.Linear(8, 2),
            "dtype": nn.Linear(8, 2, bias=False, dtype=torch.bfloat16),
        }[unlike]
    found = siblings(module.places())
    assert sorted(names for _, names in found) == sorted((name,) for _, name in module.places())


@pytest.mark.parametrize("bias", [False, True])
def test_the_same_numbers_from_one_product(bias: bool) -> None:
    module, calls = Attention(bias), list[nn.Linear]()
    layers = {name: getattr(module, name) for name in NAMES}

    def made(linear: nn.Linear) -> nn.Module:
        linear.register_forward_hook(lambda *_: calls.append(linear))
        return linear

    replace(module, NAMES, made)
    x, y = torch.randn(2, 1, 5, 8)
    with torch.inference_mode():
        for given in (x, y, x):
            for name, layer in layers.items():
                assert torch.allclose(getattr(module, name)(given), layer(given), atol=1e-6)
    assert len(calls) == 3
    assert [one.out_features for one in calls] == [10, 10, 10]


def test_nothing_is_kept_once_all_was_taken() -> None:
    module = Attention()
    replace(module, NAMES, lambda linear: linear)
    assert isinstance(module.q_proj, Part)
    product = module.q_proj._product
    x = torch.randn(1, 8)
    module.v_proj(x)
    module.q_proj(x)
    assert product._input is x
    module.k_proj(x)
    assert product._input is None
    assert product._outputs == {}


def test_what_was_not_asked_for_is_forgotten() -> None:
    module = Attention()
    layers = {name: getattr(module, name) for name in NAMES}
    replace(module, NAMES, lambda linear: linear)
    product = module.q_proj._product
    x = torch.randn(1, 8)
    module.q_proj(x)
    product.forget()
    assert (product._input, product._outputs) == (None, {})
    assert torch.allclose(module.k_proj(x), layers["k_proj"](x), atol=1e-6)


def test_a_product_that_fails_gives_nobody_the_numbers_of_another_input() -> None:
    module, full = Attention(), [False, True]
    layers = {name: getattr(module, name) for name in NAMES}

    def fail(*_: object) -> None:
        if full and full.pop(0):
            raise MemoryError

    def made(linear: nn.Linear) -> nn.Module:
        linear.register_forward_pre_hook(fail)
        return linear

    replace(module, NAMES, made)
    x, y = torch.randn(2, 1, 8)
    module.q_proj(x)
    with pytest.raises(MemoryError):
        module.q_proj(y)
    assert torch.allclose(module.k_proj(y), layers["k_proj"](y), atol=1e-6)


def test_an_input_of_its_own_or_asked_twice() -> None:
    module = Attention()
    layers = {name: getattr(module, name) for name in NAMES}
    replace(module, NAMES, lambda linear: linear)
    x, y = torch.randn(2, 1, 8)
    with torch.inference_mode():
        for name, given in (("q_proj", x), ("k_proj", y), ("v_proj", x), ("v_proj", x)):
            assert torch.allclose(getattr(module, name)(given), layers[name](given), atol=1e-6)
        module.q_proj(x)
        x *= 2  # another input in the same place: what was computed is not given twice
        assert torch.allclose(module.q_proj(x), layers["q_proj"](x), atol=1e-6)
