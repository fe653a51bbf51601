"""Batches: files that come together, are counted together and can be cancelled together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.document import Chunk
from rag_backend.errors import Conflict, NotFound
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.models import Attachment, FileRecord, Store
from rag_backend.knowledge.sql.opening import open_sqlite

WINDOWS = {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 100}


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(open_sqlite(tmp_path / "catalog.sqlite"))
    yield opened
    opened.close()


@pytest.fixture
def store(catalog: Catalog) -> Store:
    return catalog.create_store("main", {})


def uploaded(catalog: Catalog, file_id: str, name: str | None = None, sha: str = "") -> str:
    catalog.add_file(FileRecord(file_id, name or f"{file_id}.md", 1, sha or file_id, "x", 1))
    return file_id


def wanted(catalog: Catalog, *ids: str) -> list[Attachment]:
    return [Attachment(uploaded(catalog, file_id)) for file_id in ids]


CHUNKS = [Chunk("text", 0, 4)]


def test_a_batch_counts_its_files(catalog: Catalog, store: Store) -> None:
    batch, attached = catalog.add_batch(store.id, wanted(catalog, "a", "b", "c"))
    assert [file.file_id for file in attached] == ["a", "b", "c"]
    assert (batch.counts, batch.cancelled) == ({"in_progress": 3}, False)
    catalog.complete(store.id, "a", CHUNKS)
    catalog.fail(store.id, "b", "server_error", "no")
    counts = {"in_progress": 1, "completed": 1, "failed": 1}
    assert catalog.batch(store.id, batch.id).counts == counts
    catalog.detach(store.id, "c")  # nobody will index it: nobody must wait for it
    assert catalog.batch(store.id, batch.id).counts == {"completed": 1, "failed": 1}


def test_all_or_none(catalog: Catalog, store: Store) -> None:
    with pytest.raises(NotFound, match="gone"):
        catalog.add_batch(store.id, [*wanted(catalog, "a"), Attachment("gone")])
    assert catalog.list_store_files(store.id) == []


def test_cancelling_ends_what_is_not_indexed(catalog: Catalog, store: Store) -> None:
    batch, _ = catalog.add_batch(store.id, wanted(catalog, "a", "b"))
    catalog.complete(store.id, "a", CHUNKS)
    cancelled = catalog.cancel_batch(store.id, batch.id)
    assert (cancelled.cancelled, cancelled.counts) == (True, {"completed": 1, "cancelled": 1})
    assert [item.file_id for item in catalog.list_garbage()] == ["b"]
    # The writer had it in hand: neither of its endings may show.
    assert not catalog.complete(store.id, "b", CHUNKS)
    catalog.fail(store.id, "b", "server_error", "late", written=True)
    assert catalog.store_file(store.id, "b").status == "cancelled"
    assert catalog.visible_chunks(store.id, ["b:0"]) == {}
    [again] = catalog.attach_all(store.id, [Attachment("b", None, WINDOWS)])
    assert (again.status, again.chunking, again.batch_id) == ("in_progress", WINDOWS, None)


def test_a_batch_that_is_done_cannot_be_cancelled(catalog: Catalog, store: Store) -> None:
    batch, _ = catalog.add_batch(store.id, wanted(catalog, "a"))
    catalog.complete(store.id, "a", CHUNKS)
    assert not catalog.cancel_batch(store.id, batch.id).cancelled


def test_a_file_that_a_later_batch_wants_goes_on(catalog: Catalog, store: Store) -> None:
    first, _ = catalog.add_batch(store.id, wanted(catalog, "a", "b"))
    second, _ = catalog.add_batch(store.id, [Attachment("b")])
    assert catalog.cancel_batch(store.id, first.id).counts == {"cancelled": 1, "in_progress": 1}
    assert catalog.batch(store.id, second.id).counts == {"in_progress": 1}


def test_batches_belong_to_their_store_and_go_with_it(catalog: Catalog, store: Store) -> None:
    batch, _ = catalog.add_batch(store.id, wanted(catalog, "a"))
    other = catalog.create_store("other", {})
    for look in (catalog.batch, catalog.cancel_batch):
        with pytest.raises(NotFound):
            look(other.id, batch.id)
    catalog.delete_store(store.id)
    with pytest.raises(NotFound):
        catalog.batch(store.id, batch.id)


def test_different_files_of_one_name_that_come_together_all_stay(
    catalog: Catalog, store: Store
) -> None:
    pairs = [("a", "index.html", "1"), ("b", "index.html", "2"), ("c", "other.html", "3")]
    for file_id, name, sha in pairs:
        uploaded(catalog, file_id, name, sha)
    catalog.add_batch(store.id, [Attachment(file_id) for file_id, _, _ in pairs])
    for file_id, _, _ in pairs:
        catalog.complete(store.id, file_id, CHUNKS)
    assert {file.file_id for file in catalog.list_store_files(store.id)} == {"a", "b", "c"}


def test_the_same_file_twice_is_one(catalog: Catalog, store: Store) -> None:
    [only] = wanted(catalog, "a")
    batch, attached = catalog.add_batch(store.id, [only, only])
    assert (len(attached), batch.counts) == (1, {"in_progress": 1})


def test_attaching_again_changes_attributes_and_keeps_the_chunks(
    catalog: Catalog, store: Store
) -> None:
    catalog.attach_all(store.id, [Attachment(uploaded(catalog, "a"), {"k": 1}, WINDOWS)])
    catalog.complete(store.id, "a", CHUNKS)
    before = catalog.store(store.id).revision
    [same] = catalog.attach_all(store.id, [Attachment("a")])
    assert (same.status, same.attributes, same.chunking) == ("completed", {"k": 1}, WINDOWS)
    assert catalog.store(store.id).revision == before
    [other] = catalog.attach_all(store.id, [Attachment("a", {"k": 2, "path": "x"}, WINDOWS)])
    assert (other.status, other.attributes, other.identity) == (
        "completed",
        {"k": 2, "path": "x"},
        "x",
    )
    assert catalog.store(store.id).revision == before + 1
    assert catalog.visible_chunks(store.id, ["a:0"]).keys() == {"a:0"}


@pytest.mark.parametrize(("first", "second"), [(WINDOWS, {}), (None, WINDOWS)])
def test_another_chunking_of_a_file_that_is_there_is_refused(
    catalog: Catalog, store: Store, first: dict[str, int] | None, second: dict[str, int]
) -> None:
    catalog.attach_all(store.id, [Attachment(uploaded(catalog, "a"), None, first)])
    with pytest.raises(Conflict, match="another chunking strategy"):
        catalog.attach_all(store.id, [Attachment("a", None, second)])
    catalog.fail(store.id, "a", "server_error", "no")
    assert catalog.attach_all(store.id, [Attachment("a", None, second)])[0].status == "in_progress"


def test_two_thousand_files_at_once(catalog: Catalog, store: Store) -> None:
    ids = [f"file-{n:04}" for n in range(2000)]
    batch, attached = catalog.add_batch(store.id, wanted(catalog, *ids))
    assert [file.file_id for file in attached] == ids
    assert batch.counts == {"in_progress": 2000}
    assert catalog.cancel_batch(store.id, batch.id).counts == {"cancelled": 2000}
