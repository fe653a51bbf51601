"""Where the encoder of `/v1/embeddings` computes; a rule without torch, so that all may ask."""

from __future__ import annotations

from llm_offline.settings import Settings

EMBEDDED = "embedded"
"""The setting's word for the encoder that is packaged."""


def encoder_device(settings: Settings, device: str) -> str:
    """The encoder's device: what `--embedding-device` says, or the rule behind `auto`.

    The packaged encoder (22M weights) is fast enough on a CPU, where it costs a GPU nothing: a
    card of 8 GB has better use for the room. One that somebody named is larger as a rule and
    slow there: it goes where the model is.

    Args:
        settings: Those of the start.
        device: Where the model computes, chosen: never `auto`.
    """
    if settings.embedding_device != "auto":
        return settings.embedding_device
    return "cpu" if settings.embedding_model == EMBEDDED else device


def shares_device(settings: Settings, device: str) -> bool:
    """Whether the encoder lives in the memory of the model's GPU and needs room kept free there."""
    own = encoder_device(settings, device)
    return device != "cpu" and _numbered(own) == _numbered(device)


def _numbered(device: str) -> str:
    return "cuda:0" if device == "cuda" else device
