"""Filters answered from memory, one revision at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ingest.document import Chunk
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.models import FileRecord, Store
from rag_backend.knowledge.selecting import Selector
from rag_backend.knowledge.sql.opening import open_sqlite

LAW = {"type": "eq", "key": "team", "value": "law"}
Add = Callable[..., None]


class CountingCatalog(Catalog):
    """Knows how often its files were listed."""

    listed = 0

    def searchable_files(self, store_id: str) -> Any:
        """See Catalog."""
        self.listed += 1
        return super().searchable_files(store_id)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[CountingCatalog]:
    made = CountingCatalog(open_sqlite(tmp_path / "catalog.sqlite"))
    yield made
    made.close()


@pytest.fixture
def store(catalog: Catalog) -> Store:
    return catalog.create_store("one", {})


@pytest.fixture
def add(catalog: Catalog, store: Store) -> Add:
    def added(file_id: str, team: str, chunks: int = 2, complete: bool = True) -> None:
        catalog.add_file(FileRecord(file_id, file_id, 1, "0" * 64, "user_data", 0))
        catalog.attach(store.id, file_id, {"team": team, "path": file_id}, file_id)
        if complete:
            texts = [Chunk(f"text {n}", 0, 6) for n in range(chunks)]
            catalog.complete(store.id, file_id, texts)

    return added


def test_completed_files_that_pass(catalog: Catalog, store: Store, add: Add) -> None:
    for file_id, team in {"a": "law", "b": "it", "c": "law", "d": "it"}.items():
        add(file_id, team)
    add("e", "law", complete=False)
    add("f", "law", chunks=0)
    found = Selector(catalog).select(catalog.store(store.id), LAW)
    assert found.versions.keys() == {"a", "c", "f"}
    assert found.counts == {"a": 2, "c": 2}
    assert sorted(found.chunks()) == ["a:0", "a:1", "c:0", "c:1"]
    assert found.chunks(["c"]) == ["c:0", "c:1"]
    assert (len(found), found.size, found.share) == (3, 4, 3 / 5)
    assert "a:1" in found
    assert "b:1" not in found


def test_a_store_without_files(catalog: Catalog, store: Store) -> None:
    found = Selector(catalog).select(catalog.store(store.id), LAW)
    assert not found
    assert (found.size, found.share, found.enough(100)) == (0, 0.0, 0)


def test_the_catalog_is_asked_once_a_revision(
    catalog: CountingCatalog, store: Store, add: Add
) -> None:
    add("a", "law")
    selector, other = Selector(catalog), {"type": "ne", "key": "team", "value": "law"}
    now = catalog.store(store.id)
    assert selector.select(now, LAW) is selector.select(now, dict(reversed(LAW.items())))
    assert not selector.select(now, other)
    assert catalog.listed == 1
    add("b", "it")
    assert selector.select(catalog.store(store.id), other).versions.keys() == {"b"}
    assert catalog.listed == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda catalog, store: catalog.detach(store.id, "a"),
        lambda catalog, store: catalog.delete_file("a"),
        lambda catalog, store: catalog.set_attributes(store.id, "a", {"team": "it"}),
    ],
)
def test_every_visible_change_is_seen(
    catalog: Catalog, store: Store, add: Add, change: Callable[[Catalog, Store], None]
) -> None:
    add("a", "law")
    selector = Selector(catalog)
    assert selector.select(catalog.store(store.id), LAW)
    change(catalog, store)
    assert not selector.select(catalog.store(store.id), LAW)


def test_a_file_that_came_back_has_another_version(
    catalog: Catalog, store: Store, add: Add
) -> None:
    def version() -> Mapping[str, str]:
        return Selector(catalog).select(catalog.store(store.id), LAW).versions

    add("a", "law")
    add("b", "law")
    before = version()
    catalog.detach(store.id, "a")
    catalog.forget_garbage([item.id for item in catalog.list_garbage()])  # as the writer does
    catalog.attach(store.id, "a", {"team": "law"}, "a")
    assert catalog.complete(store.id, "a", [Chunk("text", 0, 4)])
    assert version()["a"] != before["a"]
    assert version()["b"] == before["b"]


def test_many_filters_and_stores(catalog: Catalog, store: Store, add: Add) -> None:
    add("a", "law")
    selector, now = Selector(catalog), catalog.store(store.id)
    for n in range(100):
        wanted = {"type": "in", "key": "team", "value": ["law", str(n)]}
        assert selector.select(now, wanted).versions.keys() == {"a"}
    for n in range(10):
        assert not selector.select(catalog.create_store(f"store {n}", {}), LAW)
    assert selector.select(now, LAW)
    assert len(selector._selections._kept) <= 16
    assert len(selector._files._kept) <= 4
