"""The library as the API uses it."""

from __future__ import annotations

from rag_backend.knowledge.library import Library
from tests.rag_backend.knowledge.building import put, settled, statuses


async def test_an_uploaded_file_is_found(library: Library) -> None:
    store = await library.store("default")
    await put(library, store, "note.md", b"# Canteen\n\nLunch is served at noon.\n")
    await settled(library, store)
    assert statuses(library, store) == {"note.md": "completed"}
    hits = await library.search(store, "When is lunch served?", 3)
    assert hits[0].chunk.text == "Lunch is served at noon."
