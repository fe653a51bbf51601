"""The library as the API uses it."""

from __future__ import annotations

import pytest

from rag_backend.errors import Conflict, NotFound
from rag_backend.knowledge.library import Library
from tests.rag_backend.knowledge.building import put, settled, statuses

pytestmark = pytest.mark.usefixtures("storage")


async def test_an_uploaded_file_is_found(library: Library) -> None:
    store = await library.store("default")
    await put(library, store, "note.md", b"# Canteen\n\nLunch is served at noon.\n")
    await settled(library, store)
    assert statuses(library, store) == {"note.md": "completed"}
    hits = await library.search(store, "When is lunch served?", 3)
    assert hits[0].chunk.text == "Lunch is served at noon."


async def test_the_default_store_comes_back_empty(library: Library) -> None:
    store = await library.store("default")
    await put(library, store, "note.md", b"Lunch is served at noon.")
    await settled(library, store)
    assert not await library.is_empty(store)
    await library.delete_store(store)
    again = await library.store("default")
    assert again.id != store.id
    assert await library.is_empty(again)
    with pytest.raises(NotFound):
        await library.delete_store(store)


async def test_content_of_a_file_that_is_not_complete(library: Library) -> None:
    store = await library.store("default")
    file = await put(library, store, "broken.pdf", b"%PDF-1.7")
    await settled(library, store)
    with pytest.raises(Conflict, match="failed"):
        await library.chunks(store, file.file_id)
    with pytest.raises(NotFound):
        await library.chunks(store, "file-unknown")


async def test_bytes_that_are_gone_are_said(library: Library) -> None:
    store = await library.store("default")
    file = await put(library, store, "note.md", b"Lunch")
    await settled(library, store)
    assert (await library.file(file.file_id)).filename == "note.md"
    library.blobs.delete(file.file_id)
    with pytest.raises(NotFound, match="are gone from"):
        await library.file(file.file_id)
