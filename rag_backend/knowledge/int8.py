"""The packaged kind of encoder in 8 bits on ONNX Runtime: the fast path where the CPU has VNNI.

Each text is a run of its own on one core, so nothing is padded, a text's vector does not depend on
its company, and a turn lasts tens of milliseconds at most.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from rag_backend.knowledge.bert_graph import Bert, build
from rag_backend.knowledge.turns import Turns

if TYPE_CHECKING:
    from rag_backend.knowledge.embedding import Kind, Vectors


class Int8Embedding:
    """An EmbeddingProvider of a recognised BERT encoder."""

    def __init__(self, bert: Bert, model_id: str) -> None:
        """Quantise the weights: half a second for MiniLM.

        Raises:
            KeyError, TypeError, ValueError: See `build`.
        """
        self.model_id = model_id
        self.max_tokens = bert.max_tokens - 2
        self.tokenizer_file: Path | None = bert.folder / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(str(self.tokenizer_file))
        self._tokenizer.enable_truncation(bert.max_tokens)
        self._tokenizer.no_padding()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(
            build(bert), options, providers=["CPUExecutionProvider"]
        )
        self._dimension = int(self._session.get_outputs()[0].shape[1])
        cores = os.cpu_count() or 1
        self._turns = Turns(cores)
        # One each: queries must not stand behind documents in the pool's own line.
        self._pools = {
            kind: ThreadPoolExecutor(cores, thread_name_prefix=f"encoder-{kind}")
            for kind in ("document", "query")
        }

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """See EmbeddingProvider."""
        if not texts:
            return np.empty((0, 0), dtype=np.float32)
        encoded = self._tokenizer.encode_batch_fast(list(texts))
        ids = [np.array([one.ids], dtype=np.int64) for one in encoded]
        vectors = np.empty((len(ids), self._dimension), dtype=np.float32)
        urgent = kind == "query"

        def one(number: int) -> None:
            with self._turns.turn(urgent=urgent):
                vectors[number] = self._session.run(None, {"ids": ids[number]})[0][0]

        # Long ones first, so that the cores finish together.
        order = sorted(range(len(ids)), key=lambda number: -ids[number].shape[1])
        for _ in self._pools[kind].map(one, order):
            pass
        return vectors


def has_vnni() -> bool:
    """Whether this CPU multiplies 8-bit integers fast (AVX-512 VNNI)."""
    umath = importlib.import_module("numpy._core._multiarray_umath")  # what np.show_runtime reads
    features = getattr(umath, "__cpu_features__", {})
    return bool(features.get("AVX512VNNI"))
