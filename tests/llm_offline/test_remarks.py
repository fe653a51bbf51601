"""What the start says of a model."""

from __future__ import annotations

from llm_offline.engine.weights.arranging import WeightBytes
from llm_offline.remarks import weight_remarks


def test_the_start_says_where_quantization_saves_no_time() -> None:
    sizes = {"int4": WeightBytes(quantized=2**30, rest=2**29, numbers=2**31, of=2**31 + 2**28)}
    assert weight_remarks("int4", sizes, "fp16", "its kernels are elsewhere") == [
        "weights 1.50 GiB (int4 and fp16): 89% of the weights quantized; output layer, embeddings "
        "and norms stay in fp16",
        "int4 saves memory only, and time not: its kernels are elsewhere, so the weights are "
        "written out in each step",
    ]
    assert len(weight_remarks("int4", sizes, "bf16", None)) == 1
