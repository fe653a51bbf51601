"""What an encoder for `/v1/embeddings` will take on the model's GPU: that much is left to it."""

from __future__ import annotations

from pathlib import Path

from llm_offline.encoder_device import shares_device
from llm_offline.hub import cached_folder
from llm_offline.settings import Settings

_WORK = 2**29
"""Bytes that a slice of texts takes while it is encoded. An estimate: no GPU was at hand."""


def encoder_bytes(settings: Settings, device: str) -> int:
    """Bytes to keep free on the device; 0 on a CPU, whose memory is not divided beforehand.

    One that is not here yet, and the packaged one, which is small, count with their work space
    alone; so does one whose weights are not in safetensors.
    """
    if not device.startswith("cuda") or not shares_device(settings, device):
        return 0
    folder = cached_folder(settings.embedding_model)
    return _WORK + (_weights(folder) if folder is not None else 0)


def _weights(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
