"""Files over HTTP: what is accepted, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.rag_backend.api.serving import Running
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


def test_pages_of_files(backend: Running, http: httpx.Client) -> None:
    with backend.sdk() as client:
        made = [client.files.create(file=(f"{n}.txt", b"x"), purpose="vision").id for n in range(5)]
        listed = [file.id for file in client.files.list(purpose="vision", limit=2)]
        assert sorted(listed) == sorted(made)
        ascending = client.files.list(purpose="vision", order="asc", limit=2)
        assert [file.id for file in ascending] == listed[::-1]
        for file in client.files.list(purpose="vision", limit=2):  # deleted while it is listed
            client.files.delete(file.id)
        assert list(client.files.list(purpose="vision")) == []
    for wrong in ({"limit": 0}, {"limit": 10_001}, {"after": "file-no"}, {"order": "up"}):
        refused(http.get("/v1/files", params=wrong), 400, next(iter(wrong)))


def test_a_file_that_expires(backend: Running, http: httpx.Client) -> None:
    with backend.sdk() as client:
        file = client.files.create(
            file=("a.txt", b"soon gone"),
            purpose="assistants",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert file.expires_at == file.created_at + 3600
        assert client.files.retrieve(file.id).expires_at == file.expires_at
        client.files.delete(file.id)
    upload = {"file": ("a.txt", b"a")}
    for form, param in (
        ({"expires_after[anchor]": "created_at"}, "expires_after"),
        ({"expires_after[seconds]": "3600"}, "expires_after"),
        (
            {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
            "expires_after[anchor]",
        ),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"},
            "expires_after[seconds]",
        ),
        ({"expires_after[days]": "1"}, "expires_after[days]"),
        ({"colour": "red"}, "colour"),
    ):
        refused(http.post("/v1/files", data=form, files=upload), 400, param)


def test_parts_of_a_file(backend: Running, http: httpx.Client) -> None:
    data = bytes(range(100))
    with backend.sdk() as client:
        file = client.files.create(file=("data.bin", data), purpose="user_data")
    path = f"/v1/files/{file.id}/content"

    def ranged(asked: str) -> httpx.Response:
        return http.get(path, headers={"range": asked})

    part = ranged("bytes=10-19")
    assert (part.status_code, part.content) == (206, data[10:20])
    assert part.headers["content-range"] == "bytes 10-19/100"
    assert ranged("bytes=-5").content == data[-5:]
    several = ranged("bytes=0-1,50-51")
    assert several.headers["content-type"].startswith("multipart/byteranges")
    assert data[50:52] in several.content
    beyond = ranged("bytes=200-")
    assert refused(beyond, 416, "range")["code"] == "invalid_range"
    assert beyond.headers["content-range"] == "bytes */100"
    refused(ranged("pages=1-2"), 400, "range")
    head = http.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "100")
    http.delete(f"/v1/files/{file.id}")


def test_the_reference_has_every_path(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert paths["/v1/files/{file_id}/content"].keys() == {"get"}
    assert "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel" in paths


def test_bytes_that_somebody_took_away(backend: Running, http: httpx.Client) -> None:
    with backend.sdk() as client:
        file = client.files.create(file=("a.txt", b"a"), purpose="user_data")
    backend.parts.library.blobs.delete(file.id)
    refused(http.get(f"/v1/files/{file.id}/content"), 404, "file_id")
    http.delete(f"/v1/files/{file.id}")


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
    assert health.json()["storage"] == {"problem": None, "rebuilding": []}
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
