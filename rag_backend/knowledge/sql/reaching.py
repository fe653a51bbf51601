"""What of the catalog is within somebody's reach, as conditions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from rag_backend.knowledge.models import Reach
from rag_backend.knowledge.sql.tables import files, store_files, stores


def files_within(reach: Reach | None) -> list[Any]:
    """Conditions on `files`: in a store that may be seen, or uploaded by the same key."""
    if reach is None:
        return []
    held = select(store_files.c.file_id)
    if reach.stores is not None:
        held = held.join(stores, stores.c.id == store_files.c.store_id)
        held = held.where(*stores_within(reach))
    return [(files.c.uploaded_by == reach.uploader) | files.c.id.in_(held)]


def stores_within(reach: Reach | None) -> list[Any]:
    """Conditions on `stores`."""
    if reach is None or reach.stores is None:
        return []
    return [stores.c.id.in_(reach.stores) | stores.c.name.in_(reach.stores)]
