"""A deterministic encoder that costs nothing: each word is a direction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rag_backend.knowledge.embedding import Kind, Vectors
from rag_backend.text import words


class FakeEmbedding:
    """Bag of words, each word one of `dimension` axes; another name is another model."""

    max_tokens = 254
    tokenizer_file: Path | None = None

    def __init__(self, model_id: str = "fake", dimension: int = 64) -> None:
        self.model_id = model_id
        self._dimension = dimension

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """See EmbeddingProvider."""
        vectors = np.zeros((len(texts), self._dimension), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            row[0] = 0.1  # a text without words has a direction too
            for word in words(text):
                digest = hashlib.sha256(f"{self.model_id} {word}".encode()).digest()
                row[int.from_bytes(digest[:4]) % self._dimension] += 1
            row /= np.linalg.norm(row)
        return vectors if len(texts) else np.empty((0, 0), dtype=np.float32)
