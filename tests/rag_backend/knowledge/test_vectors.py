"""Cosine neighbours in Chroma: embedded, and a server."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.errors import InternalError

from rag_backend.errors import StorageBroken, StorageLost
from rag_backend.knowledge.chroma import open_embedded, open_server
from rag_backend.knowledge.embedding import Vectors
from rag_backend.knowledge.filters import Selection
from rag_backend.knowledge.models import SearchableFile, new_id
from rag_backend.knowledge.vectors import VectorIndex
from tests.ports import refusing
from tests.servers import Missing, chroma


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Chroma server of the installed version."""
    try:
        with chroma(tmp_path_factory.mktemp("chroma")) as url:
            yield url
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=["embedded", "server"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorIndex]:
    """The same behaviour is wanted of both."""
    if request.param == "embedded":
        opened = VectorIndex(open_embedded(tmp_path))
    else:
        opened = VectorIndex(open_server(request.getfixturevalue("server")))
    yield opened
    opened.close()


@pytest.fixture
def store() -> str:
    return f"{new_id('vs_')}-0"


def axes(count: int, size: int = 4) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.eye(size, dtype=np.float32)[[n % size for n in range(count)]]


@dataclass(frozen=True)
class Clustered:
    """An index, and what it holds."""

    index: VectorIndex
    ids: list[str]
    vectors: Vectors


def selection(sizes: Mapping[str, int], share: float, version: str = "1") -> Selection:
    """Files by their numbers of chunks, said to be this share of a store."""
    files = [SearchableFile(file_id, version, {}) for file_id in sizes]
    return Selection(files, share, lambda file_ids: {f: sizes[f] for f in file_ids if sizes[f]})


def test_nearest_first_with_their_cosines(index: VectorIndex, store: str) -> None:
    vectors = np.array([[1, 0, 0], [0.6, 0.8, 0], [-1, 0, 0]], dtype=np.float32)
    index.add(store, ["a:0", "a:1", "b:0"], ["a", "a", "b"], vectors)
    found = index.search(store, np.array([1, 0, 0], dtype=np.float32), 5)
    assert [item for item, _ in found] == ["a:0", "a:1", "b:0"]
    assert [cosine for _, cosine in found] == pytest.approx([1.0, 0.6, -1.0], abs=1e-5)
    assert index.count(store) == 3


@pytest.mark.parametrize("share", [0.01, 0.9])
def test_only_the_files_asked_for(index: VectorIndex, store: str, share: float) -> None:
    index.add(store, ["a:0", "b:0", "c:0"], ["a", "b", "c"], axes(3))
    query = axes(1)[0]
    found = index.search(store, query, 5, selection({"b": 1, "c": 1}, share))
    assert {item for item, _ in found} == {"b:0", "c:0"}
    assert index.search(store, query, 5, selection({"nobody": 1}, share)) == []
    assert index.search(store, query, 5, selection({}, 0.0)) == []


def test_deleting_very_many_files(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0", "b:0"], ["a", "b"], axes(2))
    index.delete_files(store, ["b", *(f"file-{n}" for n in range(12_000)), "a"])
    assert index.ids(store) == set()


def test_a_file_that_was_indexed_anew_is_compared_anew(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0", "a:1", "b:0"], ["a", "a", "b"], axes(3))
    query, few = axes(1)[0], selection({"a": 2}, 0.01)
    assert [item for item, _ in index.search(store, query, 1, few)] == ["a:0"]
    index.add(store, ["a:1"], ["a"], axes(1))
    index.add(store, ["a:0"], ["a"], axes(4)[3:])
    assert [item for item, _ in index.search(store, query, 1, few)] == ["a:1"]
    index.delete_files(store, ["a"])
    assert index.search(store, query, 5, few) == []


def test_vectors_that_another_backend_replaced_are_read_again(
    index: VectorIndex, store: str
) -> None:
    index.add(store, ["a:0"], ["a"], axes(1))
    query = axes(1)[0]
    assert index.search(store, query, 1, selection({"a": 1}, 0.01))[0][1] == pytest.approx(1)
    elsewhere = index._chroma.client.get_collection(store, embedding_function=None)
    elsewhere.upsert(ids=["a:0"], embeddings=axes(2)[1:])
    again = selection({"a": 1}, 0.01, version="2")
    assert index.search(store, query, 1, again)[0][1] == pytest.approx(0)


def test_a_collection_that_another_backend_made_again(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0"], ["a"], axes(1))
    assert index.search(store, axes(1)[0], 5)
    index._chroma.client.delete_collection(store)
    assert index.search(store, axes(1)[0], 5) == []
    index.add(store, ["b:0"], ["b"], axes(1))
    assert [item for item, _ in index.search(store, axes(1)[0], 5)] == ["b:0"]


@pytest.mark.parametrize("lost", [2, 40_000])
def test_vectors_that_were_lost_are_not_missed(index: VectorIndex, store: str, lost: int) -> None:
    index.add(store, ["a:0", "c:0"], ["a", "c"], axes(2))
    few = selection({"a": 3, "b": lost}, 0.01)
    assert [item for item, _ in index.search(store, axes(1)[0], 5, few)] == ["a:0"]


@pytest.mark.slow
def test_a_filter_of_very_many_chunks(index: VectorIndex, store: str) -> None:
    """More than SQLite's limit on the parameters of a statement; too far off to be looked for."""
    sizes = {"near": 2000, **{f"file-{n}": 2000 for n in range(17)}}
    ids = [f"{file}:{n}" for file, size in sizes.items() for n in range(size)]
    vectors = np.random.default_rng(1).standard_normal((len(ids), 8)).astype(np.float32)
    vectors[:2000, 0] = 30
    index.add(store, ids, [item.partition(":")[0] for item in ids], vectors)
    del sizes["near"]
    query = np.eye(8, dtype=np.float32)[0]
    found = index.search(store, query, 10, selection(sizes, 17 / 18))
    assert len(found) == 10
    assert all(item.startswith("file-") for item, _ in found)


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clustered]:
    """12,000 vectors in 60 clusters, 5 chunks a file; a file lies in one cluster."""
    chance = np.random.default_rng(7)
    centres = chance.standard_normal((60, 48))
    rows = np.repeat(centres, 200, axis=0) + 0.7 * chance.standard_normal((12_000, 48))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    ids = [f"file-{n // 5}:{n % 5}" for n in range(12_000)]
    opened = VectorIndex(open_embedded(tmp_path_factory.mktemp("clustered")))
    opened.add("clustered", ids, [f"file-{n // 5}" for n in range(12_000)], vectors)
    yield Clustered(opened, ids, vectors)
    opened.close()


@pytest.mark.parametrize(
    ("allows", "what"),
    [
        (lambda file: True, "all"),
        (lambda file: file % 100 == 7, "tight"),
        (lambda file: file % 5 == 1, "middle"),
        (lambda file: file % 10 != 0, "loose"),
        (lambda file: file % 40 == 0 and file < 1200, "half of the clusters, tight"),
        (lambda file: file < 400, "ten clusters"),  # far from most queries
        (lambda file: file >= 400, "all clusters but ten"),
    ],
)
def test_what_is_allowed_is_found(
    clustered: Clustered, allows: Callable[[int], bool], what: str
) -> None:
    """Recall@100 against a comparison with all; the queries lie everywhere."""
    files = [n for n in range(2400) if allows(n)]
    allowed = selection({f"file-{n}": 5 for n in files}, len(files) / 2400)
    inside = np.isin(np.arange(12_000) // 5, files)
    shares = []
    for vector in clustered.vectors[::400] + np.float32(0.02):
        best = np.argsort(-np.where(inside, clustered.vectors @ vector, -2))[:100]
        wanted = {clustered.ids[n] for n in best[: inside.sum()]}
        found = clustered.index.search("clustered", vector, 100, allowed)
        assert [cosine for _, cosine in found] == sorted((c for _, c in found), reverse=True)
        shares.append(len(wanted & {item for item, _ in found}) / len(wanted))
    assert np.mean(shares) >= 0.95, what


def test_adding_again_overwrites(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0", "a:1"], ["a", "a"], axes(2))
    index.add(store, ["a:0"], ["a"], axes(4)[3:])
    assert index.ids(store) == {"a:0", "a:1"}
    assert index.search(store, axes(4)[3], 1)[0][0] == "a:0"


def test_deleting_files(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0", "a:1", "b:0"], ["a", "a", "b"], axes(3))
    index.delete_files(store, ["a", "unknown"])
    assert index.ids(store) == {"b:0"}


def test_a_collection_that_does_not_exist_is_empty(index: VectorIndex, store: str) -> None:
    assert index.search(store, axes(1)[0], 5) == []
    assert (index.count(store), index.ids(store)) == (0, set())
    index.delete_files(store, ["a"])
    index.drop(store)


def test_a_dropped_collection_is_gone(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0"], ["a"], axes(1))
    index.drop(store)
    assert index.ids(store) == set()


def test_vectors_come_back_as_they_were_put(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0", "a:1"], ["a", "a"], axes(2))
    found = index.get(store, ["a:1", "b:0"])
    assert list(found) == ["a:1"]
    assert np.array_equal(found["a:1"], axes(2)[1])
    assert index.get("vs_of-nobody", ["a:1"]) == {}


def test_nothing_of_a_dropped_collection_stays_on_disk(tmp_path: Path) -> None:
    index = VectorIndex(open_embedded(tmp_path))
    rows = np.random.default_rng(1).standard_normal((1500, 8)).astype(np.float32)
    ids = [f"a:{number}" for number in range(len(rows))]
    try:
        for collection in ("vs_a-0", "vs_b-0"):
            index.add(collection, ids, ["a"] * len(ids), rows)
        folders = {path for path in tmp_path.iterdir() if path.is_dir()}
        assert len(folders) == 2, "it writes to disk by now"
        index.drop("vs_a-0")
        assert len(folders & set(tmp_path.iterdir())) == 1
        assert index.search("vs_b-0", rows[7], 1)[0][0] == "a:7"
    finally:
        index.close()


def test_more_than_one_batch(index: VectorIndex, store: str) -> None:
    ids = [f"a:{n}" for n in range(4500)]
    index.add(store, ids, ["a"] * 4500, axes(4500))
    assert index.ids(store) == set(ids)


def test_vectors_of_another_length_are_a_sentence(index: VectorIndex, store: str) -> None:
    index.add(store, ["a:0"], ["a"], axes(1))
    with pytest.raises(StorageBroken, match="dimension"):
        index.add(store, ["a:1"], ["a"], axes(1, size=5))
    index.heartbeat()


def test_reopened(tmp_path: Path, store: str) -> None:
    first = VectorIndex(open_embedded(tmp_path))
    first.add(store, ["a:0"], ["a"], axes(1))
    first.close()
    again = VectorIndex(open_embedded(tmp_path))
    assert again.search(store, axes(1)[0], 1)[0][0] == "a:0"
    again.close()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[VectorIndex]:
    opened = VectorIndex(open_embedded(tmp_path))
    yield opened
    opened.close()


def test_a_collection_dropped_under_searches_is_no_damage(embedded: VectorIndex) -> None:
    rows = np.random.default_rng(1).standard_normal((200, 32)).astype(np.float32)
    ids = [f"a:{number}" for number in range(len(rows))]
    over = False

    def search() -> int:
        done = 0
        while not over or not done:
            embedded.search("vs_a-0", rows[7], 5)
            done += 1
        return done

    with ThreadPoolExecutor(3) as threads:
        searches = [threads.submit(search) for _ in range(3)]
        try:
            for _ in range(20):
                embedded.add("vs_a-0", ids, ["a"] * len(ids), rows)
                embedded.drop("vs_a-0")
        finally:
            over = True
        assert all(each.result() for each in searches)
    assert not embedded.damaged


def failing(
    monkeypatch: pytest.MonkeyPatch, times: int, meanwhile: Callable[[], object] = int
) -> None:
    """Chroma's searches fail so many times as they do in a collection that is taken away."""
    query, left = chromadb.Collection.query, [meanwhile] * times

    def fail_first(self: chromadb.Collection, *args: Any, **named: Any) -> Any:
        if left:
            left.pop()()
            raise InternalError("Missing field: [Missing metadata segment]")
        return query(self, *args, **named)

    monkeypatch.setattr(chromadb.Collection, "query", fail_first)


def test_a_failure_in_a_collection_that_has_gone(
    embedded: VectorIndex, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded.add(store, ["a:0"], ["a"], axes(1))
    failing(monkeypatch, 1, lambda: embedded.drop(store))
    assert embedded.search(store, axes(1)[0], 1) == []
    assert not embedded.damaged


def test_a_failure_in_a_collection_that_takes_long_to_go(
    embedded: VectorIndex, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine, longer than a search that fails is repeated."""
    monkeypatch.setattr("rag_backend.knowledge.chroma._ASKED_AGAIN", ())
    embedded.add(store, ["a:0"], ["a"], axes(1))
    client = embedded._chroma.client
    delete, going, failed, may = client.delete_collection, *(threading.Event() for _ in range(3))

    def slowly(name: str) -> None:
        going.set()
        assert may.wait(60)
        delete(name)

    monkeypatch.setattr(client, "delete_collection", slowly)
    with ThreadPoolExecutor(2) as pool:
        dropping = pool.submit(embedded.drop, store)
        assert going.wait(60)
        failing(monkeypatch, 1, failed.set)
        searching = pool.submit(embedded.search, store, axes(1)[0], 1)
        assert failed.wait(60)
        may.set()
        dropping.result()
        assert searching.result() == []
    assert not embedded.damaged


def test_a_failure_that_passes_is_no_damage(
    embedded: VectorIndex, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded.add(store, ["a:0"], ["a"], axes(1))
    failing(monkeypatch, 4)
    assert embedded.search(store, axes(1)[0], 1)[0][0] == "a:0"
    assert not embedded.damaged


def test_a_failure_that_stays_is_damage(
    embedded: VectorIndex, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded.add(store, ["a:0"], ["a"], axes(1))
    failing(monkeypatch, 5)
    with pytest.raises(StorageLost):
        embedded.search(store, axes(1)[0], 1)
    assert embedded.damaged
    assert not embedded.reopen(), "its files are the same"
    assert embedded.search(store, axes(1)[0], 1)[0][0] == "a:0"
    assert not embedded.damaged


def test_a_collection_that_cannot_be_made_is_damage(
    embedded: VectorIndex, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Chroma's files are gone; that the collection does not exist says nothing."""

    def fail(*_args: object, **_named: object) -> None:
        raise InternalError("attempt to write a readonly database")

    monkeypatch.setattr(embedded._chroma.client, "get_or_create_collection", fail)
    with pytest.raises(StorageLost):
        embedded.add(store, ["a:0"], ["a"], axes(1))
    assert embedded.damaged


def test_files_that_were_deleted_are_others(tmp_path: Path, store: str) -> None:
    index = VectorIndex(open_embedded(tmp_path / "chroma"))
    index.add(store, ["a:0"], ["a"], axes(1))
    shutil.rmtree(tmp_path / "chroma")
    assert index.damaged
    assert index.reopen()
    assert index.count(store) == 0
    index.close()


def test_a_server_that_does_not_answer_is_a_sentence() -> None:
    said = pytest.raises(StorageBroken, match=r"CHROMA_URL=http://127\.0\.0\.1:\d+\. Start it")
    with refusing() as url, said:
        VectorIndex(open_server(url))


def test_a_directory_that_is_no_database_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "chroma.sqlite3").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageBroken, match="ingest rebuild"):
        VectorIndex(open_embedded(tmp_path))
