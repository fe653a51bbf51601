"""Compiles both Triton kernels for a GPU that need not be there: `compile_kernels 90`."""

from __future__ import annotations

import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llm_offline.engine.compute import triton_decode

_TYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}
_DIM, _GROUPS, _SPLITS = 128, 3, 32  # Llama-3.2-3B's


def _compiled(kernel: Any, types: dict[str, str], chosen: dict[str, Any], target: GPUTarget) -> Any:
    signature = types | dict.fromkeys(chosen, "constexpr")
    return triton.compile(ASTSource(kernel, signature, chosen), target=target)


def main() -> None:
    """Prints `cubin` for each kernel that could be compiled."""
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    # Turing does not know bf16.
    known = [t for t in _TYPES if target.arch >= 80 or t != torch.bfloat16]
    for dtype, fed in [(t, fed) for t in known for fed in (1, 5)]:
        pointer = _TYPES[dtype]
        types = (
            dict.fromkeys(("query", "keys", "values"), pointer)
            | dict.fromkeys(("tables", "lengths", "positions"), "*i64")
            | dict.fromkeys(("parts", "weights", "tops"), "*fp32")
            | {"scale": "fp32"}
            | dict.fromkeys(("query_head", "query_token", "key_head", "key_slot"), "i32")
            | dict.fromkeys(("value_head", "value_slot", "table_row"), "i32")
        )
        chosen = {
            "fed": fed, "groups": _GROUPS, "rows": 16, "key_dim": _DIM, "value_dim": _DIM,
            "wide_key": _DIM, "wide_value": _DIM, "page": 16,
            "tile": triton_decode.tile_size(_DIM, _DIM, dtype.itemsize), "splits": _SPLITS,
            # Both kinds of each branch.
            "window": 0 if fed == 1 else 4096, "softcap": 0.0 if fed == 1 else 50.0,
            "exact": dtype == torch.float32,
        }  # fmt: skip
        found = _compiled(triton_decode._attend_split, types, chosen, target)
        assert found.metadata.shared <= 99 * 1024
        print(*(name for name in found.asm if name == "cubin"))
    for sinking in (False, True):
        types = dict.fromkeys(("parts", "weights", "tops"), "*fp32")
        types |= {"sinks": "*fp16", "output": "*fp16", "heads": "i32"}
        chosen = {
            "value_dim": _DIM, "wide_value": _DIM, "splits": _SPLITS, "sinking": sinking
        }  # fmt: skip
        print(
            *(
                n
                for n in _compiled(triton_decode._add_splits, types, chosen, target).asm
                if n == "cubin"
            )
        )


if __name__ == "__main__":
    main()
