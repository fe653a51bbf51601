"""Vector stores over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from rag_backend.knowledge.fusion import DENSE_WEIGHT
from tests.rag_backend.api.serving import Running, fill
from tests.rag_backend.api.test_refusals import JSON, refused


@pytest.fixture
def http(backend: Running) -> Iterator[httpx.Client]:
    with backend.http() as client:
        yield client


def test_a_store_from_birth_to_end(backend: Running, http: httpx.Client) -> None:
    with backend.sdk() as client:
        store = client.vector_stores.create(name="cars", metadata={"kind": "guide"})
        fill(backend, {"cars.md": "Cars must stop at a red light.\n"}, store.id)
        found = client.vector_stores.search(store.id, query="red light").data
        assert found[0].filename == "cars.md"
        assert client.vector_stores.retrieve(store.id).file_counts.completed == 1
        fusion = {"dense_weight": {"default": DENSE_WEIGHT}, "learnt_from": 0}
        assert http.get("/v1/vector_stores/cars").json()["fusion"] == fusion
        assert client.vector_stores.update(store.id, name="vans").name == "vans"
        assert http.get("/v1/models/extractive@vans").json()["id"] == "extractive@vans"
        assert "openai@vans" in {model.id for model in client.models.list()}
        (attached,) = client.vector_stores.files.list(store.id).data
        assert client.vector_stores.files.delete(attached.id, vector_store_id=store.id).deleted
        assert client.vector_stores.search(store.id, query="red light").data == []
        assert client.vector_stores.delete(store.id).deleted
    refused(http.get("/v1/vector_stores/vans"), 404, "vector_store_id")
    refused(http.get("/v1/models/extractive@vans"), 404, "vector_store_id")


LAST = "last_active_at"
SIZES = {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}


def chunked(**sizes: Any) -> dict[str, Any]:
    return {"chunking_strategy": {"type": "static", "static": SIZES | sizes}}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/default/search", {"query": ""}, 400, "query"),
        ("/default/search", {"query": ["x", " "]}, 400, "query"),
        ("/default/search", {"query": []}, 400, "query"),
        ("/default/search", {"query": ["x"] * 17}, 400, "query"),
        ("/default/search", {"query": "x", "max_num_results": 0}, 400, "max_num_results"),
        ("/default/search", {"query": "x", "max_num_results": 51}, 400, "max_num_results"),
        ("/default/search", {"query": "x", "filters": {"type": "odd"}}, 400, "filters"),
        (
            "/default/search",
            {"query": "x", "ranking_options": {"ranker": "odd"}},
            400,
            "ranking_options.ranker",
        ),
        (
            "/default/search",
            {"query": "x", "ranking_options": {"score_threshold": 2}},
            400,
            "ranking_options.score_threshold",
        ),
        ("/default/search", {"query": "x", "surprise": 1}, 400, "surprise"),
        ("/nowhere/search", {"query": "x"}, 404, "vector_store_id"),
        ("/file-1/search", {"query": "x"}, 404, "vector_store_id"),
        ("/default/files", {"file_id": "file-nothing"}, 404, "file_id"),
        ("/default/files", {"file_id": "vs_1"}, 404, "file_id"),
        ("/default/files", {"file_id": 5}, 400, "file_id"),
        ("/default/files", {"file_id": ""}, 400, "file_id"),
        ("/default/files", {}, 400, "file_id"),
        ("/default/files", {"file_id": "a", "attributes": {"k": None}}, 400, "attributes.k"),
        ("/default/files", {"file_id": "a", "attributes": {"k": "v" * 513}}, 400, "attributes.k"),
        ("/default/files", {"file_id": "a", "attributes": {"k": "0" * 513}}, 400, "attributes.k"),
        ("/default/files", {"file_id": "a", "attributes": {"k": 2**70}}, 400, "attributes.k"),
        (
            "/default/files",
            {"file_id": "a", "attributes": {"k" * 65: "v"}},
            400,
            "attributes." + "k" * 65,
        ),
        (
            "/default/files",
            {"file_id": "a", "attributes": {str(n): n for n in range(17)}},
            400,
            "attributes",
        ),
        (
            "/default/files",
            {"file_id": "a"} | chunked(max_chunk_size_tokens=99),
            400,
            "chunking_strategy.static.max_chunk_size_tokens",
        ),
        (
            "/default/files",
            {"file_id": "a"} | chunked(max_chunk_size_tokens=4097),
            400,
            "chunking_strategy.static.max_chunk_size_tokens",
        ),
        (
            "/default/files",
            {"file_id": "a"} | chunked(chunk_overlap_tokens=401),
            400,
            "chunking_strategy.static",
        ),
        (
            "/default/files",
            {"file_id": "a", "chunking_strategy": {"type": "static"}},
            400,
            "chunking_strategy",
        ),
        (
            "/default/files",
            {"file_id": "a", "chunking_strategy": {"type": "auto", "static": SIZES}},
            400,
            "chunking_strategy",
        ),
        (
            "/default/files",
            {"file_id": "a", "chunking_strategy": {"type": "other"}},
            400,
            "chunking_strategy.type",
        ),
        ("/default/file_batches", {}, 400, "file_ids"),
        ("/default/file_batches", {"file_ids": []}, 400, "file_ids"),
        ("/default/file_batches", {"files": []}, 400, "files"),
        ("/default/file_batches", {"file_ids": ["a"] * 2001}, 400, "file_ids"),
        (
            "/default/file_batches",
            {"file_ids": ["a"], "files": [{"file_id": "a"}]},
            400,
            "file_ids",
        ),
        (
            "/default/file_batches",
            {"files": [{"file_id": "a"}], "attributes": {"k": 1}},
            400,
            "attributes",
        ),
        ("/default/file_batches", {"files": [{"id": "a"}]}, 400, "files.0.file_id"),
        ("/default/file_batches", {"file_ids": ["file-nothing"]}, 404, "file_id"),
        ("/nowhere/file_batches", {"file_ids": ["a"]}, 404, "vector_store_id"),
        ("", {"name": ""}, 400, "name"),
        ("", {"name": " "}, 400, "name"),
        ("", {"name": "n" * 257}, 400, "name"),
        ("", {"name": "default"}, 409, "name"),
        ("", {"file_ids": ["file-nothing"]}, 404, "file_id"),
        ("", {"expires_after": {"anchor": LAST, "days": 0}}, 400, "expires_after.days"),
        ("", {"expires_after": {"anchor": LAST, "days": 366}}, 400, "expires_after.days"),
        ("", {"expires_after": {"anchor": LAST}}, 400, "expires_after.days"),
        ("", {"expires_after": {"anchor": "now", "days": 1}}, 400, "expires_after.anchor"),
        ("", {"metadata": {str(n): "v" for n in range(17)}}, 400, "metadata"),
        ("", {"metadata": {"k": "v" * 513}}, 400, "metadata.k"),
        ("", {"metadata": {"k": 1}}, 400, "metadata.k"),
        ("", {"metadata": []}, 400, "metadata"),
        ("", {"description": "d" * 10_001}, 400, "description"),
        ("", {"surprise": 1}, 400, "surprise"),
        ("/default", {"name": " "}, 400, "name"),
        ("/default", {"name": "other"}, 409, "name"),
        ("/default", {"expires_after": {"anchor": LAST, "days": 1}}, 409, "expires_after"),
        ("/nowhere", {}, 404, "vector_store_id"),
        ("/default/files/file-nothing", {"attributes": {}}, 404, "file_id"),
        ("/default/files/file-nothing", {}, 400, "attributes"),
        ("/default/file_batches/vsfb_no/cancel", {}, 404, "batch_id"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_stores_refuse(
    http: httpx.Client, path: str, body: dict[str, object], status: int, param: str
) -> None:
    before = http.get("/v1/vector_stores").json()["data"]
    refused(http.post(f"/v1/vector_stores{path}", json=body), status, param)
    assert [s["id"] for s in http.get("/v1/vector_stores").json()["data"]] == [
        s["id"] for s in before
    ]


def test_pages_of_a_list(backend: Running, http: httpx.Client) -> None:
    first = http.get("/v1/vector_stores/default/files", params={"limit": 2}).json()
    assert (len(first["data"]), first["has_more"]) == (2, True)
    rest = http.get(
        "/v1/vector_stores/default/files", params={"limit": 2, "after": first["last_id"]}
    ).json()
    assert (len(rest["data"]), rest["has_more"]) == (1, False)
    with backend.sdk() as client:  # follows the pages by itself
        listed = [file.id for file in client.vector_stores.files.list("default", limit=1)]
    assert listed == [item["id"] for item in first["data"] + rest["data"]]
    refused(http.get("/v1/vector_stores", params={"after": "odd"}), 400, "after")
    refused(http.get("/v1/vector_stores", params={"limit": 0}), 400, "limit")
    refused(http.get("/v1/vector_stores", params={"order": "odd"}), 400, "order")


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/default/files/vs_1", "file_id"),
        ("/default/files/file-nothing/content", "file_id"),
        ("/default/file_batches/vsfb_no", "batch_id"),
        ("/default/file_batches/vsfb_no/files", "batch_id"),
        ("/nowhere/files", "vector_store_id"),
        ("/nowhere/file_batches/vsfb_no", "vector_store_id"),
    ],
)
def test_what_is_not_there(http: httpx.Client, path: str, param: str) -> None:
    refused(http.get(f"/v1/vector_stores{path}"), 404, param)


@pytest.mark.parametrize("path", ["", "/default/files"])
@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 101},
        {"limit": "x"},
        {"order": "up"},
        {"after": "x"},
        {"before": "x"},
    ],
    ids=str,
)
def test_wrong_parts_of_lists(http: httpx.Client, path: str, query: dict[str, Any]) -> None:
    answer = http.get(f"/v1/vector_stores{path}", params=query)
    refused(answer, 400, next(iter(query)))


def test_a_status_that_is_none(http: httpx.Client) -> None:
    refused(http.get("/v1/vector_stores/default/files", params={"filter": "odd"}), 400, "filter")


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b'"\\ud800"'])
def test_values_that_json_does_not_have(http: httpx.Client, value: bytes) -> None:
    content = b'{"attributes": {"k": ' + value + b"}}"
    for path in ("/default/files/file-nothing", "/default/files", "/default/file_batches", ""):
        answer = http.post(f"/v1/vector_stores{path}", content=content, headers=JSON)
        assert refused(answer, 400)["code"] == "invalid_json"


def test_what_a_store_is_marked_with(backend: Running, http: httpx.Client) -> None:
    with backend.sdk() as client:
        store = client.vector_stores.create(
            name="marked", description="of cars", metadata={"a": "b"}, expires_after=EXPIRY
        )
        assert (store.metadata, store.status) == ({"a": "b"}, "completed")
        assert store.expires_after is not None
        assert (store.expires_after.anchor, store.expires_after.days) == (LAST, 7)
        assert store.expires_at == (store.last_active_at or 0) + 7 * 86_400
        assert http.get("/v1/vector_stores/marked").json()["description"] == "of cars"
        same = client.vector_stores.update(store.id)
        assert (same.metadata, same.expires_at) == (store.metadata, store.expires_at)
        bare = client.vector_stores.update(store.id, metadata=None, expires_after=None, name=None)
        assert (bare.name, bare.metadata, bare.expires_after, bare.expires_at) == (
            "marked",
            {},
            None,
            None,
        )
        with pytest.raises(openai.ConflictError, match=f"exists already .{store.id}.: use that"):
            client.vector_stores.create(name="marked")
        client.vector_stores.delete(store.id)


EXPIRY: Any = {"anchor": LAST, "days": 7}


def test_a_name_that_is_taken_is_not_asked_for_again(http: httpx.Client) -> None:
    answer = http.post("/v1/vector_stores", json={"name": "default"})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")


def test_a_store_that_begins_with_files(backend: Running) -> None:
    with backend.sdk() as client:
        files = [
            client.files.create(file=(f"{n}.md", f"Number {n}.".encode()), purpose="assistants").id
            for n in range(3)
        ]
        strategy: Any = {"type": "static", "static": SIZES}
        store = client.vector_stores.create(file_ids=files, chunking_strategy=strategy)
        assert store.file_counts.total == 3
        for file_id in files:
            done = client.vector_stores.files.poll(
                file_id, vector_store_id=store.id, poll_interval_ms=20
            )
            assert done.status == "completed"
            assert done.chunking_strategy is not None
            assert done.chunking_strategy.type == "static"
        listed = client.vector_stores.files.list(store.id, order="asc").data
        assert [file.id for file in listed] == files
        client.vector_stores.delete(store.id)
        for file_id in files:
            client.files.delete(file_id)


def test_a_store_that_has_expired(backend: Running, http: httpx.Client) -> None:
    catalog = backend.parts.library.catalog
    with backend.sdk() as client:
        store = client.vector_stores.create(name="lent", expires_after=EXPIRY)
        ids = fill(backend, {"lent.md": "The ladder is in the cellar."}, store.id)
        catalog.update_store(store.id, last_active_at=1)
        [gone] = catalog.expire_stores(2**31)
        assert gone.id == store.id
        expired = client.vector_stores.retrieve(store.id)
        assert (expired.status, expired.expires_at) == ("expired", 1 + 7 * 86_400)
        assert (expired.usage_bytes, expired.file_counts.total) == (0, 1)
        assert [file.id for file in client.vector_stores.files.list(store.id)] == [ids["lent.md"]]
        path = f"/v1/vector_stores/{store.id}"
        for answer in (
            http.post(f"{path}/search", json={"query": "ladder"}),
            http.post(f"{path}/files", json={"file_id": ids["lent.md"]}),
            http.post(f"{path}/file_batches", json={"file_ids": [ids["lent.md"]]}),
            http.post(
                "/v1/chat/completions",
                json={
                    "model": "extractive@lent",
                    "messages": [{"role": "user", "content": "Where is the ladder kept?"}],
                },
            ),
        ):
            assert refused(answer, 409)["code"] == "vector_store_expired"
        back = client.vector_stores.update(store.id, expires_after=None)
        assert back.status in ("in_progress", "completed")  # a file as short is soon there
        client.vector_stores.files.poll(
            ids["lent.md"], vector_store_id=store.id, poll_interval_ms=20
        )
        assert client.vector_stores.search(store.id, query="ladder").data
        client.vector_stores.delete(store.id)
        client.files.delete(ids["lent.md"])
