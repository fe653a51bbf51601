"""Whether a quantized model saves time where it runs, or memory only."""

from __future__ import annotations

from typing import Literal

import torch

from llm_offline.engine.hardware.device import DTYPES
from llm_offline.engine.weights.quantized_linear import HAS_TRITON, working_kernels


def slow_because(quantization: str, device: str, dtype: str) -> str | None:
    """Why quantized weights are written out in each step there; None where they are not.

    Asked once the model was tried, it costs nothing: the kernels were tried then.

    Args:
        quantization: `none`, `int8` or `int4`.
        device: Where the model computes, chosen: never `auto`.
        dtype: What it computes in: bf16, fp16 or fp32.
    """
    # On a CPU other layers take their place; see `engine.weights.arranging`.
    if quantization == "none" or device == "cpu":
        return None
    found = torch.device(device)
    if found.type != "cuda":
        return f"its kernels are for CUDA, and this is {device}"
    if not HAS_TRITON:
        return "its kernels need Triton, which is not installed"
    # As tensors there name it: the answer is kept by that.
    index = torch.cuda.current_device() if found.index is None else found.index
    bits: Literal[8, 4] = 8 if quantization == "int8" else 4
    if working_kernels(bits, torch.device("cuda", index), DTYPES[dtype]) is None:
        return "its Triton kernels do not work here, as the warning above says"
    return None
