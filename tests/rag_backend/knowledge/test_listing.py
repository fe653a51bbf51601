"""Lists in parts: every item once, in order, whatever happens to the list meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.document import Chunk
from rag_backend.errors import BadRequest
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.models import Attachment, FileRecord, Store, Window
from rag_backend.knowledge.sql.opening import open_sqlite


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(open_sqlite(tmp_path / "catalog.sqlite"))
    yield opened
    opened.close()


@pytest.fixture
def store(catalog: Catalog) -> Store:
    """A store of five files in the order "e" to "a", all of one second."""
    store = catalog.create_store("main", {})
    for name in "edcba":
        catalog.add_file(FileRecord(name, f"{name}.md", 1, name, "x" if name < "c" else "y", 7))
        catalog.attach_all(store.id, [Attachment(name)])
    return store


def pages(catalog: Catalog, store: Store, window: Window) -> tuple[str, bool]:
    listed = catalog.page_store_files(store.id, window)
    return "".join(file.file_id for file in listed.items), listed.has_more


def test_parts_after(catalog: Catalog, store: Store) -> None:
    assert pages(catalog, store, Window(2)) == ("ab", True)
    assert pages(catalog, store, Window(2, after="b")) == ("cd", True)
    assert pages(catalog, store, Window(2, after="d")) == ("e", False)
    assert pages(catalog, store, Window(3, newest_first=False)) == ("edc", True)
    assert pages(catalog, store, Window(3, newest_first=False, after="c")) == ("ba", False)
    assert pages(catalog, store, Window(5)) == ("abcde", False)


def test_parts_before_are_those_next_to_the_cursor(catalog: Catalog, store: Store) -> None:
    assert pages(catalog, store, Window(2, before="e")) == ("cd", True)
    assert pages(catalog, store, Window(2, before="c")) == ("ab", False)
    assert pages(catalog, store, Window(2, newest_first=False, before="b")) == ("dc", True)
    assert pages(catalog, store, Window(2, after="a", before="e")) == ("bc", True)


def test_one_status_or_one_batch(catalog: Catalog, store: Store) -> None:
    catalog.complete(store.id, "c", [Chunk("t", 0, 1)])
    done = catalog.page_store_files(store.id, Window(5), "completed")
    assert [file.file_id for file in done.items] == ["c"]
    # The cursor of a part may have another status by the time of the next.
    rest = catalog.page_store_files(store.id, Window(5, after="c"), "in_progress")
    assert [file.file_id for file in rest.items] == ["d", "e"]
    batch, _ = catalog.add_batch(store.id, [Attachment("b"), Attachment("d")])
    members = catalog.page_store_files(store.id, Window(5), None, batch.id)
    assert [file.file_id for file in members.items] == ["b", "d"]


def test_deleting_while_listing(catalog: Catalog, store: Store) -> None:
    seen = ""
    part, more = pages(catalog, store, Window(2))
    while part:
        for file_id in part:
            catalog.detach(store.id, file_id)
        seen += part
        part, more = pages(catalog, store, Window(2, after=part[-1]))
    assert (seen, more) == ("abcde", False)


def test_files_and_stores(catalog: Catalog, store: Store) -> None:
    listed = catalog.page_files(Window(3, newest_first=False))
    assert ([file.id for file in listed.items], listed.has_more) == (["a", "b", "c"], True)
    of_purpose = catalog.page_files(Window(3, after="d"), "y")
    assert [file.id for file in of_purpose.items] == ["c"]
    assert catalog.page_stores(Window(3)).items == [catalog.store(store.id)]


@pytest.mark.parametrize("cursor", ["nothing", "", "\x00", "default"])
def test_a_cursor_that_is_none(catalog: Catalog, store: Store, cursor: str) -> None:
    for window in (Window(1, after=cursor), Window(1, before=cursor)):
        with pytest.raises(BadRequest, match="names no item"):
            catalog.page_files(window)
        with pytest.raises(BadRequest, match="names no item"):
            catalog.page_store_files(store.id, window)


def test_files_of_another_store_are_no_cursors(catalog: Catalog, store: Store) -> None:
    other = catalog.create_store("other", {})
    with pytest.raises(BadRequest):
        catalog.page_store_files(other.id, Window(1, after="a"))


def test_files_that_have_expired_are_not_listed(catalog: Catalog, store: Store) -> None:
    catalog.add_file(FileRecord("old", "old.md", 1, "old", "x", 7, expires_at=8))
    assert "old" not in [file.id for file in catalog.page_files(Window(9)).items]
