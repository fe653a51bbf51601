"""The catalog: the only truth about files, stores, their chunks and jobs.

Every method is one transaction, synchronous and thread-safe; callers in the event loop use
`asyncio.to_thread`. A job needs no table of its own: it is a store file that is `in_progress`.
What must disappear from Chroma, tantivy or the disk is written down as garbage in the transaction
that makes it invisible, so a crash in between leaves work to do and never an orphan.
"""

from __future__ import annotations

from rag_backend.knowledge.sql.backends import BackendTable
from rag_backend.knowledge.sql.batches import BatchTable
from rag_backend.knowledge.sql.chunks import ChunkTable
from rag_backend.knowledge.sql.expiry import ExpiryTable
from rag_backend.knowledge.sql.files import FileTable
from rag_backend.knowledge.sql.garbage import GarbageTable
from rag_backend.knowledge.sql.listing import ListTable
from rag_backend.knowledge.sql.parts import PartTable
from rag_backend.knowledge.sql.searchable import SearchableTable
from rag_backend.knowledge.sql.store_files import StoreFileTable
from rag_backend.knowledge.sql.stores import StoreTable


class Catalog(
    FileTable,
    StoreTable,
    StoreFileTable,
    BatchTable,
    ListTable,
    ExpiryTable,
    ChunkTable,
    SearchableTable,
    GarbageTable,
    BackendTable,
    PartTable,
):
    """Files, stores, store files, batches, chunks and garbage, behind one engine."""
