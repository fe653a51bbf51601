"""What is remembered of a catalog holds until the next commit, whoever makes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine

from rag_backend.errors import NotFound
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.library import Library
from rag_backend.knowledge.sql.commits import Commits
from rag_backend.knowledge.sql.opening import open_sqlite


def test_a_mark_changes_with_every_commit(tmp_path: Path) -> None:
    catalog, other = (Catalog(open_sqlite(tmp_path / "c.sqlite")) for _ in range(2))
    marks = [catalog.mark()]
    assert catalog.mark() == marks[0]
    for writer in (catalog, other):
        store = writer.create_store(f"of {id(writer)}", {})
        marks.append(catalog.mark())
        writer.update_store(store.id, name=f"renamed {id(writer)}")
        marks.append(catalog.mark())
    assert None not in marks
    assert len(set(marks)) == 5
    catalog.close()
    other.close()
    assert catalog.mark() is None


def test_of_other_databases_nothing_is_known() -> None:
    engine = create_engine("sqlite://")
    assert Commits(engine).mark() is None
    engine.dispose()


async def test_a_store_is_never_older_than_its_last_change(library: Library) -> None:
    first = await library.store("default")
    assert await library.store("default") is first
    library.catalog.update_store(first.id, name="renamed")
    assert (await library.store(first.id)).name == "renamed"
    with pytest.raises(NotFound):
        await library.store("default")
    again = await library.store("renamed")
    await library.delete_store(again)
    with pytest.raises(NotFound):
        await library.store("renamed")
