"""The catalog: versions, garbage, lookups, and a database that is not ours."""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from ingest.document import Chunk
from rag_backend.errors import (
    BadRequest,
    Conflict,
    NotFound,
    StorageBroken,
    StorageFull,
    StorageLocked,
)
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.models import FileRecord, Store, new_id
from rag_backend.knowledge.sql.opening import open_sqlite
from tests.rag_backend.knowledge.storage import open_catalog


@pytest.fixture
def catalog(storage: str, tmp_path: Path) -> Iterator[Catalog]:
    opened = open_catalog(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def store(catalog: Catalog) -> Store:
    return catalog.create_store("main", {})


def uploaded(catalog: Catalog, name: str = "a.md") -> str:
    file_id = new_id("file-")
    catalog.add_file(FileRecord(file_id, name, 3, "0" * 64, "user_data", 1))
    return file_id


def attached(catalog: Catalog, store: Store, identity: str = "a.md") -> str:
    file_id = uploaded(catalog, identity)
    catalog.attach(store.id, file_id, {}, identity)
    return file_id


def chunks(*texts: str) -> list[Chunk]:
    return [Chunk(text, 0, len(text), heading_path=("H",)) for text in texts]


def seen(catalog: Catalog, store: Store) -> dict[str, list[str]]:
    """{file id: its visible texts}."""
    files = catalog.list_store_files(store.id)
    listed = {f.file_id: [c.text for c in catalog.file_chunks(store.id, f.file_id)] for f in files}
    return {file_id: texts for file_id, texts in listed.items() if texts}


def garbage(catalog: Catalog) -> list[tuple[str, str | None]]:
    return [(item.kind, item.file_id or item.collection) for item in catalog.list_garbage()]


# Visibility and versions


def test_nothing_is_visible_before_completion(catalog: Catalog, store: Store) -> None:
    file = attached(catalog, store)
    assert seen(catalog, store) == {}
    assert catalog.visible_chunks(store.id, [f"{file}:0"]) == {}
    assert catalog.complete(store.id, file, chunks("one", "two"))
    assert seen(catalog, store) == {file: ["one", "two"]}
    found = catalog.visible_chunks(store.id, [f"{file}:1", f"{file}:7", "other:0"])
    assert {item: chunk.text for item, chunk in found.items()} == {f"{file}:1": "two"}
    assert found[f"{file}:1"].heading_path == ("H",)
    assert catalog.file_counts(store.id) == ({"completed": 1}, 6)
    assert catalog.count_chunks(store.id) == 2


def test_a_later_version_replaces_an_earlier_one(catalog: Catalog, store: Store) -> None:
    old, new = attached(catalog, store), attached(catalog, store)
    catalog.complete(store.id, old, chunks("old"))
    revision = catalog.store(store.id).revision
    assert seen(catalog, store) == {old: ["old"]}
    catalog.complete(store.id, new, chunks("new"))
    assert seen(catalog, store) == {new: ["new"]}
    assert catalog.store(store.id).revision > revision
    assert garbage(catalog) == [("postings", old), ("bytes", old)]
    with pytest.raises(NotFound):
        catalog.file(old)


def test_an_earlier_version_that_finishes_late_is_discarded(catalog: Catalog, store: Store) -> None:
    old, new = attached(catalog, store), attached(catalog, store)
    catalog.complete(store.id, new, chunks("new"))
    assert not catalog.complete(store.id, old, chunks("old"))
    assert seen(catalog, store) == {new: ["new"]}
    assert garbage(catalog) == [("postings", old), ("bytes", old)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_versions_that_are_whole_at_the_same_moment(
    catalog: Catalog, store: Store, order: tuple[int, int]
) -> None:
    versions = [attached(catalog, store), attached(catalog, store)]
    other = attached(catalog, store, "other.md")
    group = [versions[order[0]], other, versions[order[1]]]
    outcomes = catalog.complete_files([(store.id, file, chunks(file)) for file in group])
    assert outcomes == ["completed", "completed", "completed" if order == (0, 1) else "gone"]
    newer = versions[1]
    assert seen(catalog, store) == {newer: [newer], other: [other]}
    assert garbage(catalog) == [("postings", versions[0]), ("bytes", versions[0])]


def test_an_earlier_version_that_fails_late_leaves_no_trace(catalog: Catalog, store: Store) -> None:
    old, new = attached(catalog, store), attached(catalog, store)
    catalog.complete(store.id, new, chunks("new"))
    catalog.fail(store.id, old, "invalid_file", "broken")
    assert [file.file_id for file in catalog.list_store_files(store.id)] == [new]


def test_a_version_that_fails_keeps_the_earlier_one_visible(catalog: Catalog, store: Store) -> None:
    old, new = attached(catalog, store), attached(catalog, store)
    catalog.complete(store.id, old, chunks("old"))
    catalog.fail(store.id, new, "invalid_file", "broken")
    assert seen(catalog, store) == {old: ["old"]}
    failed = catalog.store_file(store.id, new)
    assert (failed.status, failed.error_code) == ("failed", "invalid_file")
    third = attached(catalog, store)
    catalog.complete(store.id, third, chunks("third"))
    assert [file.file_id for file in catalog.list_store_files(store.id)] == [third]


def test_a_second_failure_replaces_the_first(catalog: Catalog, store: Store) -> None:
    first, second = attached(catalog, store), attached(catalog, store)
    catalog.fail(store.id, first, "invalid_file", "broken")
    catalog.fail(store.id, second, "invalid_file", "broken again")
    assert [file.file_id for file in catalog.list_store_files(store.id)] == [second]


def test_a_completed_file_cannot_fail(catalog: Catalog, store: Store) -> None:
    file = attached(catalog, store)
    catalog.complete(store.id, file, chunks("one"))
    catalog.fail(store.id, file, "server_error", "late")
    assert seen(catalog, store) == {file: ["one"]}


def test_a_failed_file_can_be_tried_again(catalog: Catalog, store: Store) -> None:
    file = attached(catalog, store)
    catalog.fail(store.id, file, "server_error", "disk", written=True)
    assert garbage(catalog) == [("postings", file)]
    again = catalog.attach(store.id, file, {"k": 1}, "a.md")
    assert (again.status, again.error_message, again.attributes) == ("in_progress", None, {"k": 1})
    catalog.forget_garbage([item.id for item in catalog.list_garbage()])
    assert catalog.complete(store.id, file, chunks("one"))
    assert seen(catalog, store) == {file: ["one"]}


def test_attaching_again_changes_nothing(catalog: Catalog, store: Store) -> None:
    file = attached(catalog, store)
    catalog.complete(store.id, file, chunks("one"))
    assert catalog.attach(store.id, file, {}, "a.md").status == "completed"
    assert seen(catalog, store) == {file: ["one"]}


def test_other_names_are_other_files(catalog: Catalog, store: Store) -> None:
    files = [attached(catalog, store, name) for name in ("a.md", "b.md")]
    for file in files:
        catalog.complete(store.id, file, chunks("text"))
    assert set(seen(catalog, store)) == set(files)


def test_a_replaced_file_that_another_store_holds_keeps_its_bytes(
    catalog: Catalog, store: Store
) -> None:
    other = catalog.create_store("other", {})
    old = attached(catalog, store)
    catalog.attach(other.id, old, {}, "a.md")
    for holder in (store, other):
        catalog.complete(holder.id, old, chunks("old"))
    new = attached(catalog, store)
    catalog.complete(store.id, new, chunks("new"))
    assert seen(catalog, other) == {old: ["old"]}
    assert garbage(catalog) == [("postings", old)]


# Removal


def test_a_file_detached_in_progress_keeps_its_bytes(catalog: Catalog, store: Store) -> None:
    file = attached(catalog, store)
    catalog.detach(store.id, file)
    assert not catalog.complete(store.id, file, chunks("one"))
    assert catalog.file(file).id == file
    assert ("bytes", file) not in garbage(catalog)
    assert ("postings", file) in garbage(catalog)
    with pytest.raises(NotFound):
        catalog.detach(store.id, file)


def test_what_was_written_before_a_file_came_back_is_written_again(
    catalog: Catalog, store: Store
) -> None:
    file = attached(catalog, store)
    catalog.detach(store.id, file)
    catalog.attach(store.id, file, {}, "a.md")
    assert catalog.complete_files([(store.id, file, chunks("one"))]) == ["stale"]
    assert seen(catalog, store) == {}
    assert garbage(catalog) == [("postings", file)]
    catalog.forget_garbage([item.id for item in catalog.list_garbage()])
    assert catalog.complete_files([(store.id, file, chunks("one"))]) == ["completed"]


def test_a_job_that_was_ended_is_not_completed(catalog: Catalog, store: Store) -> None:
    file = attached(catalog, store)
    catalog.fail(store.id, file, "server_error", "disk")
    assert catalog.complete_files([(store.id, file, chunks("one"))]) == ["gone"]
    assert garbage(catalog) == [("postings", file)]


def test_deleting_a_file_removes_it_from_every_store(catalog: Catalog, store: Store) -> None:
    file = attached(catalog, store)
    catalog.complete(store.id, file, chunks("one"))
    catalog.delete_file(file)
    assert seen(catalog, store) == {}
    assert garbage(catalog) == [("postings", file), ("bytes", file)]
    with pytest.raises(NotFound):
        catalog.delete_file(file)


def test_deleting_a_store_keeps_the_files(catalog: Catalog, store: Store) -> None:
    file = attached(catalog, store)
    catalog.complete(store.id, file, chunks("one"))
    catalog.delete_store(store.id)
    assert catalog.file(file).id == file
    assert garbage(catalog) == [("collection", store.collection)]
    with pytest.raises(NotFound):
        catalog.delete_store(store.id)


def test_a_store_deleted_while_it_is_rebuilt_leaves_nothing(catalog: Catalog, store: Store) -> None:
    rebuilding = catalog.update_store(store.id, rebuilding=True)
    catalog.delete_store(store.id)
    catalog.swap_generation(rebuilding, "model", b"probe")
    both = {("collection", store.collection), ("collection", store.next_collection)}
    assert set(garbage(catalog)) == both


def test_a_rebuilt_store_serves_the_next_generation(catalog: Catalog, store: Store) -> None:
    catalog.swap_generation(catalog.update_store(store.id, rebuilding=True), "model", b"probe")
    now = catalog.store(store.id)
    assert (now.generation, now.rebuilding, now.embedding_model) == (1, False, "model")
    assert now.collection == store.next_collection
    assert garbage(catalog) == [("collection", store.collection)]


def test_garbage_is_forgotten_by_its_id(catalog: Catalog, store: Store) -> None:
    for name in ("a", "b"):
        catalog.detach(store.id, attached(catalog, store, name))
    first, second = catalog.list_garbage()
    catalog.forget_garbage([first.id])
    assert catalog.list_garbage() == [second]


# Names, races


def test_store_names_are_unique(catalog: Catalog, store: Store) -> None:
    other = catalog.create_store("other", {})
    with pytest.raises(Conflict, match="main"):
        catalog.create_store("main", {})
    with pytest.raises(Conflict, match="main"):
        catalog.update_store(other.id, name="main")
    assert catalog.update_store(store.id, name="main").id == store.id
    assert catalog.store("main").id == catalog.store(store.id).id


def test_an_id_wins_over_a_name(catalog: Catalog, store: Store) -> None:
    catalog.create_store(store.id, {})
    assert catalog.store(store.id).name == "main"


def test_attaching_to_a_store_deleted_at_the_same_moment(catalog: Catalog, store: Store) -> None:
    file = uploaded(catalog)
    catalog.delete_store(store.id)
    with pytest.raises(Conflict, match="retry"):
        catalog.attach(store.id, file, {}, "a.md")


def test_text_that_is_no_unicode(catalog: Catalog) -> None:
    with pytest.raises(BadRequest, match="Unicode"):
        catalog.create_store("a\ud800", {})


def test_a_text_with_nul(catalog: Catalog, store: Store) -> None:
    file = attached(catalog, store)
    catalog.complete(store.id, file, chunks("one\0two"))
    assert seen(catalog, store) == {file: ["one\ufffdtwo"]}


def test_a_place_in_the_order_is_never_given_twice(catalog: Catalog, store: Store) -> None:
    file = attached(catalog, store)
    first = catalog.store_file(store.id, file).sequence
    catalog.detach(store.id, file)
    again = catalog.attach(store.id, file, {}, "a.md").sequence
    assert again > first or catalog.owner is None  # one backend alone knows what it has removed


def test_a_new_path_is_a_new_identity(catalog: Catalog, store: Store) -> None:
    file = attached(catalog, store)
    catalog.complete(store.id, file, chunks("one"))
    moved = unicodedata.normalize("NFD", "hướng dẫn/a.md")
    catalog.set_attributes(store.id, file, {"path": moved})
    newer = attached(catalog, store, "hướng dẫn/a.md")
    catalog.complete(store.id, newer, chunks("two"))
    assert seen(catalog, store) == {newer: ["two"]}


# Curated questions


def curated(catalog: Catalog, store: Store, question: str, answer: str, name: str) -> str:
    file = attached(catalog, store, name)
    row = Chunk(f"{question} {answer}", 0, 1, question=question, answer=answer)
    catalog.complete(store.id, file, [row])
    return file


@pytest.mark.parametrize(
    "asked",
    [
        "Công ty có khám sức khoẻ không?",
        "công ty có khám  sức khoẻ không",
        unicodedata.normalize("NFD", "CÔNG TY CÓ KHÁM SỨC KHOẺ KHÔNG ?!"),
    ],
)
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_a_curated_question_is_found(
    catalog: Catalog, store: Store, asked: str, written: Literal["NFC", "NFD"]
) -> None:
    question = unicodedata.normalize(written, "Công ty có khám sức khoẻ không?")
    curated(catalog, store, question, "Có.", "faq.xlsx")
    found = catalog.curated(store.id, asked)
    assert found is not None
    assert found.answer == "Có."


def test_other_questions_are_not_curated(catalog: Catalog, store: Store) -> None:
    curated(catalog, store, "Bán gì?", "Xe.", "faq.xlsx")
    curated(catalog, store, "?!", "nothing", "odd.xlsx")
    assert catalog.curated(store.id, "Bàn gì?") is None
    assert catalog.curated(store.id, "...") is None
    assert catalog.curated(store.id, "") is None
    assert catalog.curated("vs_other", "Bán gì?") is None


def test_of_two_equal_questions_the_file_attached_last_answers(
    catalog: Catalog, store: Store
) -> None:
    curated(catalog, store, "Bán gì?", "Xe.", "b.xlsx")
    newer = curated(catalog, store, "Bán gì?", "Phụ tùng.", "a.xlsx")
    found = catalog.curated(store.id, "bán gì")
    assert found is not None
    assert found.answer == "Phụ tùng."
    catalog.detach(store.id, newer)
    found = catalog.curated(store.id, "bán gì")
    assert found is not None
    assert found.answer == "Xe."


# The database


def test_reopened(catalog: Catalog, store: Store, tmp_path: Path) -> None:
    again = open_catalog(tmp_path)
    assert again.store("main") == store
    again.close()


def test_a_catalog_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(Path(__file__).with_name("catalog_1.sql").read_text("utf-8"))
    connection.close()
    for _ in range(2):  # a second time there is nothing to do
        catalog = Catalog(open_sqlite(path))
        store = catalog.store("old")
        assert store.description is None
        assert [file.id for file in catalog.list_files()] == ["file-old"]
        assert catalog.curated(store.id, "Old?") is None
        [chunk] = catalog.file_chunks(store.id, "file-old")
        assert chunk.text == "Old text."
        assert catalog.store_file(store.id, "file-old").chunking is None
        catalog.close()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE store_files DROP COLUMN usage_bytes", "usage_bytes"),
        ("ALTER TABLE store_files ADD COLUMN mood TEXT", "mood"),
    ],
)
def test_a_catalog_of_another_program_is_refused(tmp_path: Path, change: str, named: str) -> None:
    path = tmp_path / "catalog.sqlite"
    open_sqlite(path).dispose()
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()
    with pytest.raises(StorageBroken, match=rf"another version.*store_files.*{named}"):
        open_sqlite(path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"this is no database\n" * 100)
    with pytest.raises(StorageBroken, match="DATA_DIR cannot be used"):
        open_sqlite(path)


def test_a_directory_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageBroken, match="unable to open"):
        open_sqlite(tmp_path / "absent" / "catalog.sqlite")


def test_a_catalog_that_another_program_has_locked_is_a_sentence(tmp_path: Path) -> None:
    engine = open_sqlite(tmp_path / "catalog.sqlite")
    catalog = Catalog(engine)
    other = sqlite3.connect(tmp_path / "catalog.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with engine.connect() as connection:  # the pool's own, which is used again below
        connection.exec_driver_sql("PRAGMA busy_timeout = 10")
    with pytest.raises(StorageLocked, match="locked by another program"):
        catalog.create_store("main", {})
    other.rollback()
    other.close()
    assert catalog.create_store("main", {}).name == "main"
    catalog.close()


def test_a_full_disk_is_said_and_nothing_is_half_stored(tmp_path: Path) -> None:
    engine = open_sqlite(tmp_path / "catalog.sqlite")
    catalog = Catalog(engine)
    store = catalog.create_store("main", {})
    file = attached(catalog, store)
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StorageFull, match="free some space"):
        catalog.complete(store.id, file, chunks(*["text " * 500] * 50))
    assert catalog.count_chunks(store.id) == 0
    assert catalog.store_file(store.id, file).status == "in_progress"
    catalog.close()


def test_a_catalog_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    engine = open_sqlite(path)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA user_version = 99")
        connection.commit()
    engine.dispose()
    with pytest.raises(StorageBroken, match="later version"):
        open_sqlite(path)
