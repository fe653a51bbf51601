"""`python -m tests.rag_backend.knowledge.crashing DIRECTORY STAGE`: a backend that dies.

It stores two files, then, armed, replaces one, adds one, deletes one, rebuilds and deletes a store;
when it comes to STAGE it is gone as after kill -9: nothing is flushed, nothing is cleaned up.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.sweeping import Sweeper
from rag_backend.knowledge.vectors import VectorIndex
from tests.rag_backend.knowledge.building import DirectReading, opened_library, put, settled
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding

DIED = 9
AT_THE_END = "at the end"
STAGES: dict[str, tuple[Any, str, bool]] = {
    # stage: (owner, method, whether the method still does its work)
    "while bytes are written": (Blobs, "path", False),
    "bytes written, not recorded": (Catalog, "add_file", False),
    "recorded, not attached": (Catalog, "add_file", True),
    "attached, not read": (DirectReading, "read", False),
    "read, not embedded": (VectorIndex, "add", False),
    "vectors written, no postings": (VectorIndex, "add", True),
    "postings written, not visible": (Catalog, "complete", False),
    "visible, the old version not removed": (Catalog, "complete", True),
    "a file deleted, not removed": (Catalog, "delete_file", True),
    "removed from Chroma, not from tantivy": (VectorIndex, "delete_files", True),
    "removed, and not forgotten": (Catalog, "_forget", False),
    "rebuilt, not served": (Catalog, "swap_generation", False),
    "rebuilt, the old generation not removed": (Catalog, "swap_generation", True),
    "a store deleted, not dropped": (Catalog, "delete_store", True),
    "dropped from Chroma, not from tantivy": (LexicalIndex, "drop", False),
    AT_THE_END: (Sweeper, "", False),
}


def _deadly(method: Callable[..., Any], works: bool) -> Callable[..., Any]:
    def replacement(*args: Any, **kwargs: Any) -> Any:
        if works:
            method(*args, **kwargs)
        os._exit(DIED)

    return replacement


async def live(directory: Path, stage: str) -> None:
    """Until death."""
    async with opened_library(directory, FakeEmbedding(), DirectReading()) as library:
        store = await library.store("default")
        other = library.catalog.create_store("other", {})
        await put(library, store, "a.md", b"# A\n\nThe first version.")
        gone = await put(library, store, "b.md", b"# B\n\nTo be deleted.")
        await put(library, other, "o.md", b"# O\n\nIn another store.")
        await settled(library, store)
        await settled(library, other)
        owner, method, works = STAGES[stage]
        if method:
            setattr(owner, method, _deadly(getattr(owner, method), works))
        await put(library, store, "a.md", b"# A\n\nThe second version.\n\n## More\n\nOf it.")
        await put(library, store, "c.md", b"# C\n\nA third file.")
        await settled(library, store)
        await library.delete_file(gone.file_id)
        await settled(library, store)
        await library.indexer.rebuild(store)
        await library.delete_store(other)
        await settled(library, store)
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), sys.argv[2]))
