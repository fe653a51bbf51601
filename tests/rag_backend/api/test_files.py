"""Files, vector stores and search over HTTP: what is accepted, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

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


def test_missing_parts_of_an_upload(http: httpx.Client) -> None:
    missing = http.post("/v1/files", data={"purpose": "assistants"}, files={})
    refused(missing, 400, "file")
    text = http.post("/v1/files", files={"purpose": (None, "assistants"), "file": (None, "text")})
    assert "must be a file" in refused(text, 400, "file")["message"]
    refused(http.post("/v1/files", json={"file": "x"}), 400, "file")
    wrong = http.post("/v1/files", data={"purpose": "fun"}, files={"file": ("a.txt", b"a")})
    refused(wrong, 400, "purpose")
    broken = http.post(
        "/v1/files", content=b"--x\r\ngarbage", headers={"content-type": "multipart/form-data"}
    )
    refused(broken, 400)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("..", "unnamed"),
        ("a" * 300 + ".txt", "a" * 251 + ".txt"),
        ("C:\\docs\\luật.txt", "luật.txt"),
        (unicodedata.normalize("NFD", "Điều lệ công ty.md"), "Điều lệ công ty.md"),
    ],
)
def test_file_names(http: httpx.Client, given: str, kept: str) -> None:
    file = http.post("/v1/files", files={"file": (given, b"some text")}).json()
    assert file["filename"] == kept
    http.delete(f"/v1/files/{file['id']}")


@pytest.mark.parametrize("with_length", [True, False])
def test_a_file_that_is_too_large(http: httpx.Client, with_length: bool) -> None:
    before = http.get("/v1/files").json()["data"]
    if with_length:
        content = b"x" * (2**21 + 1)
        answer = http.post("/v1/files", files={"file": ("large.txt", content)})
    else:
        head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="large.txt"\r\n\r\n'
        parts = (head, *(b"x" * 2**20 for _ in range(4)), b"\r\n--b--\r\n")
        form = {"content-type": "multipart/form-data; boundary=b"}
        answer = http.post("/v1/files", content=iter(parts), headers=form)
    assert "MAX_FILE_MB=1" in refused(answer, 413)["message"]
    slightly = http.post("/v1/files", files={"file": ("large.txt", b"x" * (2**20 + 1))})
    refused(slightly, 413, "file")
    assert http.get("/v1/files").json()["data"] == before


def test_a_file_comes_back_and_goes(backend: Running, http: httpx.Client) -> None:
    with backend.sdk() as client:
        file = client.files.create(file=("tài liệu.txt", "Xin chào".encode()), purpose="user_data")
        assert client.files.retrieve(file.id) == file
        assert file.id in {item.id for item in client.files.list()}
        assert client.files.content(file.id).text == "Xin chào"
        shown = http.get(f"/v1/files/{file.id}/content")
        assert shown.headers["content-type"] == "text/plain; charset=utf-8"
        assert "sandbox" in shown.headers["content-security-policy"]
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
    refused(http.get("/v1/files/file-nothing"), 404, "file_id")
    refused(http.get("/v1/files/file-nothing/content"), 404, "file_id")


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


def test_a_result_is_a_chunk_with_what_stands_beside_it(
    backend: Running, http: httpx.Client
) -> None:
    sentences = [f"Sentence {n} speaks of topic{n} and of nothing else at all." for n in range(120)]
    text = " ".join(sentences)
    with backend.sdk() as client:
        store = client.vector_stores.create(name="long")
        fill(backend, {"long.txt": text}, store.id)
        options = {"query": "topic60", "ranking_options": {"ranker": "none"}}
        first, *others = http.post("/v1/vector_stores/long/search", json=options).json()["data"]
        shown = first["content"][0]["text"]
        assert "topic60 " in shown
        assert " ".join(shown.split()) == text[first["start"] : first["end"]]
        best = first["best"]
        assert first["start"] < best["start"] < best["end"] < first["end"]
        assert "topic60 " in text[best["start"] : best["end"]]
        spans = sorted((one["start"], one["end"]) for one in (first, *others))
        assert all(one[1] <= other[0] for one, other in pairwise(spans))
        assert client.vector_stores.delete(store.id).deleted


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/default/search", {"query": ""}, 400, "query"),
        ("/default/search", {"query": []}, 400, "query"),
        ("/default/search", {"query": "x", "max_num_results": 0}, 400, "max_num_results"),
        ("/default/search", {"query": "x", "rewrite_query": True}, 400, "rewrite_query"),
        ("/default/search", {"query": "x", "filters": {"type": "odd"}}, 400, "filters"),
        ("/default/search", {"query": "x", "surprise": 1}, 400, "surprise"),
        ("/nowhere/search", {"query": "x"}, 404, "vector_store_id"),
        ("/default/files", {"file_id": "file-nothing"}, 404, "file_id"),
        ("/default/files", {"file_id": 5}, 400, "file_id"),
        ("", {"name": ""}, 400, "name"),
        ("", {"file_ids": ["file-nothing"]}, 404, "file_id"),
        ("", {"expires_after": {"anchor": "last_active_at", "days": 1}}, 400, "expires_after"),
        ("", {"description": "a"}, 400, "description"),
        ("", {"name": "default"}, 409, "name"),
        ("", {"name": " "}, 400, "name"),
        ("/default", {"name": " "}, 400, "name"),
        ("/default", {"name": "other"}, 409, "name"),
    ],
    ids=str,
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


def test_embeddings(backend: Running, http: httpx.Client) -> None:
    with backend.sdk() as client:  # asks for base64 by itself
        packed = client.embeddings.create(model="any", input=["xin chào", "hello"]).data
    plain = http.post("/v1/embeddings", json={"input": "hello"}).json()["data"]
    assert plain[0]["embedding"] == pytest.approx(packed[1].embedding, abs=1e-3)
    for body, param in (
        ({"input": ""}, "input"),
        ({"input": ["a", " "]}, "input"),
        ({"input": []}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": "a", "dimensions": 3}, "dimensions"),
        ({"input": "a", "encoding_format": "odd"}, "encoding_format"),
    ):
        refused(http.post("/v1/embeddings", json=body), 400, param)
    refused(http.post("/v1/embeddings", content=b'{"input": "\\udfff"}', headers=JSON), 400)


def test_a_table_is_shown_and_not_saved(backend: Running, http: httpx.Client) -> None:
    (offices,) = [f for f in http.get("/v1/files").json()["data"] if f["filename"] == "offices.csv"]
    shown = http.get(f"/v1/files/{offices['id']}/content")
    assert shown.headers["content-type"] == "text/plain; charset=utf-8"
    part = http.get(f"/v1/files/{offices['id']}/content", headers={"range": "bytes=0-3"})
    assert (part.status_code, part.text) == (206, "City")


def test_operations(http: httpx.Client) -> None:
    health = http.get("/health")
    assert health.json()["status"] == "ok"
    assert "rag_requests_total" in http.get("/metrics").text


def test_the_page_inserts_nothing_as_html_and_runs_only_its_own_script(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "on="):
        assert way not in page.text
    script = page.text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = page.headers["content-security-policy"]
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "http" not in page.text  # nothing comes from elsewhere
