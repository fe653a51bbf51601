"""What of a catalog a key may see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rag_backend.errors import BadRequest, NotFound
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.models import Attachment, FileRecord, Reach, Window
from tests.rag_backend.knowledge.storage import open_catalog


@pytest.fixture
def catalog(storage: str, tmp_path: Path) -> Iterator[Catalog]:
    """Stores `laws` (files a, b) and `drafts` (b, c); d is in none, and uploaded by "me"."""
    opened = open_catalog(tmp_path)
    for name in "abcd":
        uploader = "me" if name == "d" else "them"
        opened.add_file(FileRecord(name, f"{name}.md", 1, name, "x", 7, uploaded_by=uploader))
    for name, files in (("laws", "ab"), ("drafts", "bc")):
        store = opened.create_store(name, {})
        opened.attach_all(store.id, [Attachment(file) for file in files])
    yield opened
    opened.close()


def seen(catalog: Catalog, reach: Reach | None) -> tuple[str, list[str]]:
    files = catalog.page_files(Window(10, newest_first=False), None, reach)
    stores = catalog.page_stores(Window(10), reach)
    return "".join(f.id for f in files.items), sorted(s.name for s in stores.items)


def test_lists(catalog: Catalog) -> None:
    assert seen(catalog, None) == ("abcd", ["drafts", "laws"])
    assert seen(catalog, Reach(frozenset({"laws"}), "me")) == ("abd", ["laws"])
    by_id = Reach(frozenset({catalog.store("drafts").id}), "nobody")
    assert seen(catalog, by_id) == ("bc", ["drafts"])
    assert seen(catalog, Reach(None, "nobody")) == ("abc", ["drafts", "laws"])
    assert seen(catalog, Reach(frozenset(), "me")) == ("d", [])


def test_cursors_are_ones_own(catalog: Catalog) -> None:
    laws = Reach(frozenset({"laws"}), "me")
    rest = catalog.page_files(Window(10, newest_first=False, after="a"), None, laws)
    assert [file.id for file in rest.items] == ["b", "d"]
    seen(catalog, None)  # whose cursors are remembered
    with pytest.raises(BadRequest):
        catalog.page_files(Window(10, after="c"), None, laws)


def test_single_files(catalog: Catalog) -> None:
    laws = Reach(frozenset({"laws"}), "me")
    assert catalog.file("d", laws).uploaded_by == "me"
    catalog.check_reach(["a", "b", "d"], laws)
    catalog.check_reach(["c"], None)
    for hidden in ("c", "none"):
        with pytest.raises(NotFound, match=hidden):
            catalog.file(hidden, laws)
        with pytest.raises(NotFound, match=hidden):
            catalog.check_reach(["a", hidden], laws)


def test_where_a_file_is(catalog: Catalog) -> None:
    assert sorted(name for _, name in catalog.holders("b")) == ["drafts", "laws"]
    assert catalog.holders("d") == []
