"""The word index of one backend of several, against its catalog."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from ingest.document import Chunk
from rag_backend.knowledge.followed import FollowedIndex
from rag_backend.knowledge.models import FileRecord, Store, new_id
from rag_backend.knowledge.sql.tables import stores
from tests.rag_backend.knowledge.storage import open_catalog


@pytest.mark.parametrize("own", [True, False], ids=["written here", "written there"])
def test_a_slice_that_arrives_after_its_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """The next generation answers before a slice is written: the old one is not made again."""
    catalog, other = open_catalog(tmp_path), open_catalog(tmp_path)
    store = catalog.create_store("main", {})
    index = FollowedIndex(tmp_path / "lexical", catalog)
    writer = catalog if own else other
    file_id = new_id("file-")
    writer.add_file(FileRecord(file_id, "a.md", 3, "0" * 64, "user_data", 1))
    writer.attach(store.id, file_id, {}, "a.md")
    chunk = Chunk("Lunch is at noon", 0, 16)
    if own:
        index.replace(store.collection, [], [(f"{file_id}:0", file_id, chunk.text)])
    writer.complete(store.id, file_id, [chunk], store.collection)
    index.compare(store.id)

    def rebuilt(store: Store, back: Callable[[], None]) -> None:
        back()
        catalog.swap_generation(catalog.begin_rebuild(store.id), "model", b"")
        index.compare(store.id)

    _before_the_next_slice(index, monkeypatch, lambda back: rebuilt(store, back))
    late = new_id("file-")
    writer.add_file(FileRecord(late, "b.md", 3, "0" * 64, "user_data", 1))
    writer.attach(store.id, late, {}, "b.md")
    revision = catalog.store(store.id).revision
    writer.complete(store.id, late, [chunk], store.collection)
    while not index.follow(store.id, revision):
        pass
    served = catalog.store(store.id).collection
    assert served != store.collection
    assert {path.name for path in (tmp_path / "lexical").iterdir()} == {served}
    assert len(index.search(served, "lunch", 10)) == 2
    for each in (catalog, other):
        each.close()


def test_a_catalog_that_was_put_back(tmp_path: Path) -> None:
    """From a copy of before a rebuild: what it says now is made anew, and answers."""
    catalog, other = open_catalog(tmp_path), open_catalog(tmp_path)
    store = catalog.create_store("main", {})
    index = FollowedIndex(tmp_path / "lexical", catalog)
    file_id = new_id("file-")
    other.add_file(FileRecord(file_id, "a.md", 3, "0" * 64, "user_data", 1))
    other.attach(store.id, file_id, {}, "a.md")
    other.complete(store.id, file_id, [Chunk("Lunch is at noon", 0, 16)], store.collection)
    index.compare(store.id)
    catalog.swap_generation(catalog.begin_rebuild(store.id), "model", b"")
    index.compare(store.id)
    with catalog._engine.begin() as connection:
        connection.execute(update(stores).values(generation=0))
    index.compare(store.id)
    assert {path.name for path in (tmp_path / "lexical").iterdir()} == {store.collection}
    assert len(index.search(store.collection, "lunch", 10)) == 1
    for each in (catalog, other):
        each.close()


def _before_the_next_slice(
    index: FollowedIndex,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Callable[[], None]], None],
) -> None:
    """Once a slice knows what it brings and where to, `act` runs; it gets what restores that."""
    adopt = index._adopt

    def acting(store_id: str, collection: str, own: dict[str, int]) -> set[str]:
        act(monkeypatch.undo)
        return adopt(store_id, collection, own)

    monkeypatch.setattr(index, "_adopt", acting)
