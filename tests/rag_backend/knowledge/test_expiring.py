"""Files go at their time, and stores that nobody uses let go of their content."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ingest.document import Chunk
from rag_backend.errors import NotFound, StorageBroken
from rag_backend.knowledge.catalog import Catalog
from rag_backend.knowledge.expiring import Expirer
from rag_backend.knowledge.models import SECONDS_A_DAY, Attachment, FileRecord, Store, Window
from rag_backend.knowledge.sql.opening import open_sqlite


@dataclass
class Clock:
    """A time that passes when it is told to; begins now, since stores take the real one."""

    now: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """A catalog, its expirer, and how often something was to be swept."""

    catalog: Catalog
    clock: Clock
    swept: list[None]
    expirer: Expirer


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    catalog = Catalog(open_sqlite(tmp_path / "catalog.sqlite"))
    clock, swept = Clock(), list[None]()
    yield House(catalog, clock, swept, Expirer(catalog, lambda: swept.append(None), clock))
    catalog.close()


def indexed(house: House, store: Store, file_id: str, expires_at: int | None = None) -> None:
    file = FileRecord(file_id, f"{file_id}.md", 1, file_id, "x", 1, expires_at)
    house.catalog.add_file(file)
    house.catalog.attach_all(store.id, [Attachment(file_id)])
    house.catalog.complete(store.id, file_id, [Chunk("text", 0, 4)])


async def test_a_file_goes_everywhere_at_its_time(house: House) -> None:
    store = house.catalog.create_store("main", {})
    indexed(house, store, "a", int(house.clock.now) + 3600)
    indexed(house, store, "b")
    await house.expirer.look()
    assert house.catalog.file("a").id == "a"
    house.clock.now += 3600
    await house.expirer.look()
    assert len(house.swept) == 1
    assert [file.id for file in house.catalog.list_files()] == ["b"]
    assert house.catalog.count_chunks(store.id) == 1
    assert {item.kind for item in house.catalog.list_garbage()} == {"postings", "bytes"}


def test_a_file_whose_time_has_come_is_not_served_until_it_goes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = house.catalog.create_store("main", {})
    now = int(time.time())
    indexed(house, store, "a", now + 3600)
    assert house.catalog.visible_chunks(store.id, ["a:0"])
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    assert not house.catalog.visible_chunks(store.id, ["a:0"])
    assert not house.catalog.page_store_files(store.id, Window(9)).items
    monkeypatch.undo()
    house.catalog.add_file(FileRecord("old", "old.md", 1, "old", "x", 1, int(time.time()) - 1))
    with pytest.raises(NotFound):
        house.catalog.file("old")
    with pytest.raises(NotFound):
        house.catalog.attach_all(store.id, [Attachment("old")])


async def test_a_store_that_nobody_uses_lets_go_of_its_content(house: House) -> None:
    store = house.catalog.create_store("main", {}, None, expires_after_days=2)
    kept = house.catalog.create_store("kept", {})
    indexed(house, store, "a")
    house.catalog.add_file(FileRecord("b", "b.md", 1, "b", "x", 1))
    house.catalog.attach_all(store.id, [Attachment("b")])
    house.clock.now += SECONDS_A_DAY
    house.expirer.used(store.id)
    await house.expirer.look()
    used = house.catalog.store(store.id)
    assert (used.last_active_at, used.expired_at) == (int(house.clock.now), None)
    assert used.revision == 1  # a search is no change
    house.clock.now += 2 * SECONDS_A_DAY
    await house.expirer.look()
    expired = house.catalog.store(store.id)
    assert expired.expired_at == expired.expires_at == used.expires_at
    assert house.catalog.count_chunks(store.id) == 0
    statuses = {file.file_id: file.status for file in house.catalog.list_store_files(store.id)}
    assert statuses == {"a": "completed", "b": "cancelled"}
    assert [item.collection for item in house.catalog.list_garbage()] == [store.collection]
    assert house.catalog.store(kept.id).expired_at is None
    await house.expirer.look()  # once is enough
    assert house.catalog.store(store.id) == expired


async def test_an_expired_store_comes_back(house: House) -> None:
    store = house.catalog.create_store("main", {}, None, expires_after_days=1)
    indexed(house, store, "a")
    house.clock.now += 2 * SECONDS_A_DAY
    await house.expirer.look()
    [job] = house.catalog.set_expiry(store.id, None)
    assert (job.file_id, job.status) == ("a", "in_progress")
    back = house.catalog.store(store.id)
    assert (back.expired_at, back.expires_after_days, back.expires_at) == (None, None, None)
    assert house.catalog.set_expiry(store.id, 7) == []


async def test_what_waited_when_a_store_expired_is_indexed_when_it_comes_back(
    house: House,
) -> None:
    store = house.catalog.create_store("main", {}, None, expires_after_days=1)
    indexed(house, store, "a")
    for name in ("b", "cancelled"):
        house.catalog.add_file(FileRecord(name, f"{name}.md", 1, name, "x", 1))
    house.catalog.attach_all(store.id, [Attachment("b")])
    batch, _ = house.catalog.add_batch(store.id, [Attachment("cancelled")])
    house.catalog.cancel_batch(store.id, batch.id)
    house.clock.now += 2 * SECONDS_A_DAY
    await house.expirer.look()
    waited = house.catalog.store_file(store.id, "b")
    assert (waited.status, waited.error_code) == ("cancelled", "vector_store_expired")
    assert "expires_after" in (waited.error_message or "")
    jobs = house.catalog.set_expiry(store.id, None)
    assert {job.file_id for job in jobs} == {"a", "b"}  # and not what a person has cancelled
    assert {(job.status, job.error_code, job.error_message) for job in jobs} == {
        ("in_progress", None, None)
    }


async def test_it_looks_by_itself_at_the_time_of_the_next_file(house: House) -> None:
    store = house.catalog.create_store("main", {})
    indexed(house, store, "a", int(house.clock.now) + 3600)
    house.clock.now += 3599.5  # the loop waits for at least a second
    await house.expirer.start()
    house.clock.now += 1
    async with asyncio.timeout(30):
        while house.catalog.list_files():
            await asyncio.sleep(0.05)
    await house.expirer.stop()


async def test_what_was_used_is_written_down_at_the_end(house: House) -> None:
    store = house.catalog.create_store("main", {})
    await house.expirer.start()
    house.clock.now += 500
    house.expirer.used(store.id)
    await house.expirer.stop()
    assert house.catalog.store(store.id).last_active_at == int(house.clock.now)


async def test_a_catalog_that_fails_does_not_end_it(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_now: int) -> list[str]:
        raise StorageBroken("The disk is gone.")

    monkeypatch.setattr(house.catalog, "expired_files", broken)
    await house.expirer.start()
    await house.expirer.stop()
    assert "could not be removed yet: The disk is gone." in caplog.text
