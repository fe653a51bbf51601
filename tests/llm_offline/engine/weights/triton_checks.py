"""A process: `interpret` compares the kernels with PyTorch, `compile` makes GPU code of them.

Compiling needs no GPU: Triton brings NVIDIA's assembler along.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llm_offline.engine.weights import triton_matmul as kernels
from llm_offline.engine.weights.quantization import from_int4, from_int8, pack, to_int4, to_int8

# (outputs, inputs): whole tiles and cut ones, one group and many.
SHAPES = ((64, 128), (48, 64), (80, 1088))
ROWS = (1, 2, 3, 16, 21)
GPUS = (75, 80, 86, 89, 90)


def interpret() -> None:
    """Every kernel against the product with the weights written out."""
    torch.manual_seed(0)
    for outputs, inputs in SHAPES:
        weight = torch.randn(outputs, inputs) * 0.05
        codes8, scales8 = to_int8(weight)
        for group in (32, 64):
            codes, scales, zeros = to_int4(weight, group)
            packed = pack(codes, group)
            exact = from_int4(codes, scales, zeros, torch.float32)
            written = kernels.write_int4(packed, scales, zeros, torch.float32)
            torch.testing.assert_close(written, exact, rtol=0, atol=1e-6)
            for rows in ROWS:
                x = torch.randn(rows, inputs)
                found = kernels.times_int4(x, packed, scales, zeros)
                torch.testing.assert_close(found, x @ exact.t(), rtol=1e-4, atol=1e-4)
        exact8 = from_int8(codes8, scales8, torch.float32)
        for rows in ROWS:
            x = torch.randn(rows, inputs)
            found = kernels.times_int8(x, codes8, scales8)
            torch.testing.assert_close(found, x @ exact8.t(), rtol=1e-4, atol=1e-4)
    print("equal")


def compile_all() -> None:
    """Every kernel for every generation of GPUs from Turing to Hopper."""
    ints = {"rows": "i32", "outputs": "i32", "inputs": "i32"}
    eight = {"x": "*bf16", "codes": "*i8", "scales": "*fp32", "found": "*bf16"}
    four = {"packed": "*u8", "scales": "*bf16", "zeros": "*bf16", "found": "*bf16"}
    tile = {"tall": 32, "wide": 64}
    jobs: list[tuple[Any, dict[str, str], dict[str, int]]] = [
        (kernels._single8, eight | ints, {"tall": 8, "wide": 512}),
        (kernels._few8, eight | ints, {"padded": 16, "tall": 32, "wide": 128}),
        (kernels._few8, eight | ints, {"padded": 64, "tall": 32, "wide": 128}),
        (kernels._single4, {"x": "*bf16"} | four | ints, {"group": 64, "tall": 8, "wide": 256}),
        (kernels._few4, {"x": "*bf16"} | four | ints, {"group": 64, "padded": 16} | tile),
        (kernels._few4, {"x": "*bf16"} | four | ints, {"group": 64, "padded": 64} | tile),
        (kernels._write4, four | ints, {"group": 64, "wide": 1024}),
    ]
    for gpu in GPUS:
        for kernel, types, constants in jobs:
            known = types if gpu >= 80 else {k: v.replace("bf16", "fp16") for k, v in types.items()}
            signature = {
                name: "constexpr" if name in constants else known[name] for name in kernel.arg_names
            }
            made = triton.compile(
                ASTSource(kernel, signature, constexprs=constants),
                target=GPUTarget("cuda", gpu, 32),
            )
            used = made.metadata.shared
            assert used <= 48 * 1024, f"{kernel.__name__} takes {used} bytes of shared memory"
    print("compiled")


if __name__ == "__main__":
    {"interpret": interpret, "compile": compile_all}[sys.argv[1]]()
