"""`python -m tests.rag_backend.knowledge.crashing DIRECTORY STAGE`: a backend that dies.

It stores three files, then, armed, replaces one, adds two (one of them so long that it is written
in parts), deletes one, rebuilds a store and deletes another; when it comes to STAGE it is gone as
after kill -9: nothing is flushed, nothing is cleaned up.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rag_backend.knowledge.blobs import Blobs
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.lexical import LexicalIndex
from rag_backend.knowledge.refilling import Refill
from rag_backend.knowledge.spooling import Spooled
from rag_backend.knowledge.sweeping import Sweeper
from rag_backend.knowledge.vectors import VectorIndex
from rag_backend.knowledge.writer import Writer
from tests.rag_backend.knowledge.building import DirectReading, opened_library, put, settled
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding

DIED = 9
AT_THE_END = "at the end"
LONG = "\n\n".join(f"## {n}\n\nOf the long file, number {n}." for n in range(1200)).encode()
STAGES: dict[str, tuple[Any, str, bool]] = {
    # stage: (owner, method, whether the method still does its work)
    "while bytes are written": (Blobs, "path", False),
    "bytes written, not recorded": (Catalog, "add_file", False),
    "recorded, not attached": (Catalog, "add_file", True),
    "attached, not read": (DirectReading, "read", False),
    "read, not embedded": (FakeEmbedding, "embed", False),
    "embedded, not written": (VectorIndex, "add", False),
    "vectors written, no postings": (VectorIndex, "add", True),
    "postings written, not visible": (Catalog, "complete_files", False),
    "visible, the old version not removed": (Catalog, "complete_files", True),
    "a long file read, and put aside": (Spooled, "part", False),
    "a long file written in part": (Writer, "_put", True),
    "a file deleted, not removed": (Catalog, "delete_file", True),
    "removed from Chroma, not from tantivy": (VectorIndex, "delete_files", True),
    "removed, and not forgotten": (Catalog, "_forget", False),
    "rebuilt in part": (Refill, "written", True),
    "rebuilt, and not looked whether that is all": (Refill, "lacks_something", False),
    "rebuilt, not served": (Catalog, "swap_generation", False),
    "rebuilt, the old generation not removed": (Catalog, "swap_generation", True),
    "a store deleted, not dropped": (Catalog, "delete_store", True),
    "dropped from Chroma, not from tantivy": (LexicalIndex, "drop", False),
    AT_THE_END: (Sweeper, "", False),
}


SPARED = {"a long file written in part": 3}
"""Calls that are survived: the short files are written in one or two."""


def _deadly(method: Callable[..., Any], works: bool, spared: int) -> Callable[..., Any]:
    calls = itertools.count()

    def replacement(*args: Any, **kwargs: Any) -> Any:
        dies = next(calls) >= spared
        if works or not dies:
            result = method(*args, **kwargs)
        if dies:
            os._exit(DIED)
        return result

    return replacement


async def live(directory: Path, stage: str) -> None:
    """Until death."""
    reading = DirectReading(directory / "reading")
    async with opened_library(directory, FakeEmbedding(), reading) as library:
        store = await library.store("default")
        other = library.catalog.create_store("other", {})
        await put(library, store, "a.md", b"# A\n\nThe first version.")
        gone = await put(library, store, "b.md", b"# B\n\nTo be deleted.")
        await put(library, other, "o.md", b"# O\n\nIn another store.")
        await settled(library, store)
        await settled(library, other)
        owner, method, works = STAGES[stage]
        if method:
            setattr(owner, method, _deadly(getattr(owner, method), works, SPARED.get(stage, 0)))
        await put(library, store, "a.md", b"# A\n\nThe second version.\n\n## More\n\nOf it.")
        await put(library, store, "c.md", b"# C\n\nA third file.")
        await settled(library, store)
        await put(library, store, "long.md", LONG)
        await settled(library, store)
        await library.delete_file(gone.file_id)
        await settled(library, store)
        await library.indexer.rebuild(store)
        await library.delete_store(other)
        await settled(library, store)
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), sys.argv[2]))
