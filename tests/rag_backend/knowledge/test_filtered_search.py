"""Filters through the whole read path: every operator, and what changes while it is in use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rag_backend.knowledge.library import Library
from rag_backend.knowledge.models import Store
from tests.rag_backend.knowledge.building import DirectReading, opened_library, settled
from tests.rag_backend.knowledge.fake_embedding import FakeEmbedding

FILES: dict[str, dict[str, Any]] = {
    "a.md": {"team": "law", "year": 2020, "draft": False},
    "b.md": {"team": "law", "year": 2024.5, "draft": True},
    "c.md": {"team": "it", "year": 2024},
    "d.md": {"team": "it"},
    "e.md": {},
}


@pytest.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    reading = DirectReading()
    async with opened_library(tmp_path / "data", FakeEmbedding(), reading) as opened:
        yield opened
    reading.close()


@pytest.fixture
async def store(library: Library) -> Store:
    found = await library.store("default")
    for name, attributes in FILES.items():
        await attach(library, found, name, attributes)
    await settled(library, found)
    return found


async def attach(
    library: Library, store: Store, name: str, attributes: dict[str, Any], text: str = ""
) -> str:
    async def parts() -> AsyncIterator[bytes]:
        yield f"# {name}\n\nThe canteen serves lunch. {text}\n".encode()

    file = await library.upload(name, "user_data", parts())
    await library.attach(store, file.id, attributes)
    return file.id


async def found(library: Library, store: Store, filters: dict[str, Any] | None) -> str:
    """The initials of the files found."""
    hits = await library.search(store, "canteen lunch", 10, filters)
    return "".join(sorted(hit.chunk.filename[0] for hit in hits))


def compare(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


LAW, RECENT = compare("eq", "team", "law"), compare("gte", "year", 2024)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (None, "abcde"),
        (LAW, "ab"),
        (compare("ne", "team", "law"), "cde"),
        (compare("gt", "year", 2024), "b"),
        (RECENT, "bc"),
        (compare("lt", "year", 2024), "a"),
        (compare("lte", "year", 2024), "ac"),
        (compare("in", "team", ["law", "hr"]), "ab"),
        (compare("nin", "team", ["law", "hr"]), "cde"),
        (compare("eq", "draft", True), "b"),
        (compare("eq", "team", "nobody"), ""),
        (compare("eq", "team", 1), ""),
        ({"type": "and", "filters": [LAW, RECENT]}, "b"),
        ({"type": "or", "filters": [LAW, RECENT]}, "abc"),
        (
            {
                "type": "and",
                "filters": [
                    compare("ne", "draft", True),
                    {"type": "or", "filters": [LAW, {"type": "and", "filters": [RECENT]}]},
                ],
            },
            "ac",
        ),
    ],
)
async def test_operators(
    library: Library, store: Store, filters: dict[str, Any] | None, expected: str
) -> None:
    assert await found(library, store, filters) == expected


async def test_changes_are_visible_at_once(library: Library, store: Store) -> None:
    listed = library.catalog.list_store_files(store.id)
    names = {library.catalog.file(file.file_id).filename[0]: file.file_id for file in listed}
    assert await found(library, store, LAW) == "ab"
    library.catalog.set_attributes(store.id, names["d"], {"team": "law"})
    assert await found(library, store, LAW) == "abd"
    library.catalog.set_attributes(store.id, names["a"], {"team": "hr"})
    assert await found(library, store, LAW) == "bd"
    await library.delete_file(names["b"])
    assert await found(library, store, LAW) == "d"
    await library.detach(store, names["d"])
    assert await found(library, store, LAW) == ""
    assert await found(library, store, None) == "ace"


async def test_a_replaced_file_is_found_by_its_new_attributes(
    library: Library, store: Store
) -> None:
    assert await found(library, store, LAW) == "ab"
    await attach(library, store, "a.md", {"team": "it"}, text="Dinner too.")
    await settled(library, store)
    assert await found(library, store, LAW) == "b"
    assert await found(library, store, compare("eq", "team", "it")) == "acd"


async def test_a_file_taken_out_and_put_back(library: Library, store: Store) -> None:
    file_id = await attach(library, store, "f.md", {"team": "law"})
    await settled(library, store)
    assert await found(library, store, LAW) == "abf"
    await library.detach(store, file_id)
    assert await found(library, store, LAW) == "ab"
    await library.attach(store, file_id, {"team": "law"})
    await settled(library, store)
    assert await found(library, store, LAW) == "abf"


async def test_a_change_in_the_middle_of_a_search(
    library: Library, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was selected before is checked again at the end."""
    [first, *_] = library.catalog.list_store_files(store.id)
    dense = library.retriever._dense

    def changing(*given: Any) -> Any:
        library.catalog.set_attributes(store.id, first.file_id, {"team": "hr"})
        return dense(*given)

    monkeypatch.setattr(library.retriever, "_dense", changing)
    before = library.catalog.file(first.file_id).filename[0]
    assert before not in await found(library, store, compare("ne", "team", "hr"))


async def test_a_file_that_is_replaced_again_and_again_is_never_missed(
    library: Library, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was selected is gone when it is looked up, more often than a search is repeated."""
    dense, versions = library.retriever._dense, iter(range(5))

    async def replacing(*given: Any) -> Any:
        ranking = await dense(*given)
        for version in versions:
            await attach(library, store, "a.md", {"team": "law"}, text=f"Version {version}.")
            await settled(library, store)
            break
        return ranking

    monkeypatch.setattr(library.retriever, "_dense", replacing)
    assert await found(library, store, LAW) == "ab"


async def test_hits_that_are_gone_make_room_for_others(
    library: Library, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that the catalog no longer shows do not shorten the list."""
    for n in range(30):
        await attach(library, store, f"g{n}.md", {})
    await settled(library, store)
    gone = {hit.chunk.id for hit in await library.search(store, "canteen lunch", 20)}
    visible = library.catalog.visible_chunks

    def fewer(store_id: str, ids: Any) -> Any:
        return visible(store_id, [item for item in ids if item not in gone])

    monkeypatch.setattr(library.catalog, "visible_chunks", fewer)
    hits = await library.search(store, "canteen lunch", 5)
    assert len(hits) == 5
    assert gone.isdisjoint(hit.chunk.id for hit in hits)


async def test_an_empty_store(library: Library) -> None:
    store = await library.store("default")
    assert await found(library, store, LAW) == ""
