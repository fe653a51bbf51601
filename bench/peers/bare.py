"""The encoder alone, as sentence-transformers' documentation shows it; bfloat16 where we use it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sentence_transformers import SentenceTransformer
from timing import run


def prepare(folder: str) -> Callable[[list[str]], object]:
    """`SentenceTransformer.encode`."""
    cpu = torch.cpu
    native = cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    dtype = torch.bfloat16 if native else torch.float32
    model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})
    return lambda texts: model.encode(texts)


run(["sentence-transformers", "transformers", "torch"], prepare)
