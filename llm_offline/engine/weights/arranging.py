"""What a model's weights take, and putting them where they belong, one tensor after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llm_offline.engine.weights.cpu_linear import Int4Linear, Int8Linear, PackedLinear, packs
from llm_offline.engine.weights.joined import replace, siblings
from llm_offline.engine.weights.quantization import BITS, fits, quantized_bytes
from llm_offline.engine.weights.quantized_linear import Linear4, Linear8


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """What a model's weights take.

    Attributes:
        quantized: Bytes of the layers that are quantized, scales included.
        rest: Bytes of all else: embeddings (once where they are the output layer too), output
            layer, norms, biases, and layers that no quantization fits.
        numbers: Weights of the quantized layers.
        of: Weights of the whole model.
    """

    quantized: int
    rest: int
    numbers: int
    of: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.quantized + self.rest


def weight_bytes(
    model: Any, quantization: str, dtype: torch.dtype, device: str = "cuda"
) -> WeightBytes:
    """What the weights of a model take in memory once `arrange` is through with them.

    Args:
        model: A transformers causal LM before `arrange`; of its weights only shapes are read, so
            they may be on the device "meta".
        quantization: `none`, `int8` or `int4`.
        dtype: Of what is not quantized.
        device: Where it computes; the layout for a CPU needs a second copy of an output layer
            that shares its weights with the embeddings, in bf16 and fp32.
    """
    quantized = numbers = 0
    for parent, name in _quantizable(model, quantization):
        linear = getattr(parent, name)
        quantized += quantized_bytes(linear, BITS[quantization])
        numbers += linear.weight.numel()
    of = sum(parameter.numel() for parameter in model.parameters())
    rest = of - numbers
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is embeddings.weight and _packs(dtype, device):
        rest += head.weight.numel()
    return WeightBytes(quantized, rest * dtype.itemsize, numbers, of)


def arrange(
    model: Any,
    quantization: str,
    *,
    device: str,
    dtype: torch.dtype,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Quantize a model's linear layers, and lay them out as the device wants them.

    One layer is read, quantized on the device and let go before the next, so a model whose files
    are mapped into memory never stands there as a whole. On a CPU layers that read the same input
    become one product. The last layer, whose outputs are compared with each other, keeps its
    numbers, and so do embeddings and norms.

    Args:
        model: A transformers causal LM on the CPU; it is changed. Unless `quantization` is
            `none`, its dtype may be that of its files.
        quantization: `none`, `int8` or `int4`.
        device: Where it will compute; all but quantized layers stay on the CPU. For a CPU nothing
            stays mapped from a file.
        dtype: What it computes in.
        told: Called with (layers done, layers in all).

    Raises:
        RuntimeError: One of the kinds that `device.lacks_memory` knows, where they do not fit.
    """
    layers = _quantizable(model, quantization)
    found = siblings(layers) if device == "cpu" else [(parent, (name,)) for parent, name in layers]
    for done, (parent, names) in enumerate(found, start=1):
        replace(parent, names, lambda linear: _quantized(linear, quantization, device, dtype))
        told(done, len(found))
    if quantization != "none":
        _own(model, dtype)
    elif device == "cpu":
        _leave_files(model, dtype)
    if _packs(dtype, device):
        for parent, names in siblings(_linears(model)):
            replace(parent, names, PackedLinear)


def held_by(model: Any) -> int:
    """Bytes of all tensors that a network holds: parameters, and what layers keep beside them."""
    found: dict[int, int] = {}
    for module in model.modules():
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        tensors += [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
        found |= {id(one): one.numel() * one.element_size() for one in tensors}
    return sum(found.values())


def _linears(model: Any) -> list[tuple[nn.Module, str]]:
    """Where the linear layers are; not the layers themselves, which the list would keep alive."""
    return [
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if type(child) is nn.Linear
    ]


def _quantizable(model: Any, quantization: str) -> list[tuple[nn.Module, str]]:
    if quantization == "none":
        return []
    head = model.get_output_embeddings()
    return [
        (parent, name)
        for parent, name in _linears(model)
        if getattr(parent, name) is not head and fits(getattr(parent, name), BITS[quantization])
    ]


def _quantized(linear: nn.Linear, quantization: str, device: str, dtype: torch.dtype) -> nn.Module:
    if device == "cpu":
        return Int8Linear(linear) if quantization == "int8" else Int4Linear(linear)
    made = Linear8 if quantization == "int8" else Linear4
    return made(linear, device=device, dtype=dtype)


def _packs(dtype: torch.dtype, device: str) -> bool:
    """Whether linear layers that are not quantized are laid out anew."""
    return device == "cpu" and packs(dtype)


def _leave_files(model: Any, dtype: torch.dtype) -> None:
    """Copy what is still mapped from a file, but for weights that are copied when they are packed.

    A file of the dtype that is computed in is not read but mapped. Whoever copied another version
    over it would change the weights of a running model, or end the process (SIGBUS); and the system
    counts such memory as free, which would then be given to keys and values.
    """
    embeddings = model.get_input_embeddings().weight
    linears = [getattr(parent, name) for parent, name in _linears(model)]
    packed = {id(one.weight) for one in linears if _packs(dtype, "cpu")} - {id(embeddings)}
    for parameter in model.parameters():
        # torch can resize what it has allocated, and not what is mapped.
        if id(parameter) not in packed and not parameter.untyped_storage().resizable():
            parameter.data = parameter.data.clone()


def _own(model: Any, dtype: torch.dtype) -> None:
    """Copy what is left into memory of its own, in `dtype`: then the mapped files can go.

    Buffers stay as they are: frequencies of rotary embeddings are in fp32 on purpose.
    """
    # As transformers does when it reads in `dtype`.
    exact = set(model._keep_in_fp32_modules_strict or ())
    if dtype == torch.float16:
        exact |= set(model._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        kept = any(part in name.split(".") for part in exact)
        parameter.data = parameter.data.to(torch.float32 if kept else dtype, copy=True)
    model.config.dtype = dtype
