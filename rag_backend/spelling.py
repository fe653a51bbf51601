"""Names in `.env` that look like misspelt settings; other programs' names stay unmentioned."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from typing import NamedTuple

_OTHERS = (
    "LLM_OFFLINE_",  # the model server; it tells its own
    "RAG_BACKEND_",  # the command line
    "INGEST_",
    "RAG_",  # Open WebUI
    "WEBUI_",
    "OLLAMA_",
    "VLLM_",
    "AZURE_",
)
"""Programs that a `.env` is shared with, some of whose names are close to ours."""
_FAMILIES = ("LLM_", "LOCAL_LLM_", "EMBEDDING_", "RERANKER_", "SMART_")
"""Beginnings that are this backend's alone: such a name is meant for it, however it goes on."""
_CLOSE = 0.83
"""Least `difflib` ratio of a name that may be another program's. LOCAL_LLM_URL is .87 from ours,
OPENAI_KEY .833, CAHCE_URL .89; OPENAI_API_BASE .828, PGHOST .80, OPENROUTER_API_KEY .75
of others."""


class Unread(NamedTuple):
    """A name that no setting reads, and the one that was probably meant, or None."""

    name: str
    meant: str | None

    def __str__(self) -> str:
        """One sentence, without any value."""
        remedy = f"did you mean {self.meant}?" if self.meant else ".env.example has the names."
        return f".env sets {self.name}, which no setting reads: {remedy}"


def unread(names: Iterable[str], known: Collection[str]) -> Iterator[Unread]:
    """Those of `names` that were most likely meant for one of `known` (in upper case)."""
    candidates = sorted(known)
    for name in names:
        upper = name.upper()
        if upper in known or upper.startswith(_OTHERS):
            continue
        ours = upper.startswith(_FAMILIES)
        close = get_close_matches(upper, candidates, n=1, cutoff=_CLOSE)
        if ours and not close:  # LLM_MODEL was LOCAL_LLM_MODEL
            close = [other for other in candidates if other.endswith(f"_{upper}")]
        if close or ours:
            yield Unread(name, close[0] if len(close) == 1 else None)
