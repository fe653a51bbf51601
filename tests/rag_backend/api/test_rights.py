"""What each kind of key may do, asked of every route that there is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import Route

from rag_backend.api.rights import administrative, calling, readable, writable
from rag_backend.settings import Settings
from tests.rag_backend.api.serving import HANDBOOK, PATIENCE, Running, serving
from tests.rag_backend.api.test_refusals import refused

FULL, READER, WRITER, OTHER, EVERYWHERE = "full", "reads", "writes", "elsewhere", "all-reader"
KEYS = (FULL, f"{READER}=laws:read", f"{WRITER}=laws:write", f"{OTHER}=drafts:write")
OPEN = {"/", "/health", "/health/ready", "/openapi.json", "/docs"}
RULES = {administrative, calling, readable, writable}
LAWS = "# Laws\n\n## Article 5\n\nThe fine for parking on a bridge is 900,000 VND.\n"


class House(NamedTuple):
    running: Running
    laws_file: str
    drafts_file: str
    batch: str


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Stores `laws` and `drafts` with a file each; a key of every kind."""
    keyed = Settings(
        _env_file=None,
        data_dir=tmp_path_factory.mktemp("rights"),
        llm_provider="extractive",
        api_keys=(*KEYS, f"{EVERYWHERE}=*:read"),
        cache_url="memory://",
    )
    with serving(keyed) as running:
        files = {}
        with running.sdk(FULL) as client:
            for store, text in (("laws", LAWS), ("drafts", HANDBOOK)):
                client.vector_stores.create(name=store)
                done = client.vector_stores.file_batches.upload_and_poll(
                    store, files=[(f"{store}.md", text.encode())], poll_interval_ms=50
                )
                assert done.file_counts.completed == 1
                files[store] = client.vector_stores.files.list(store).data[0].id
        yield House(running, files["laws"], files["drafts"], done.id)


def http(house: House, key: str | None) -> httpx.Client:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return house.running.http(headers=headers)


def routes(house: House) -> list[Route]:
    contexts = iter_route_contexts(house.running.app.routes)
    return [context.route for context in contexts if isinstance(context.route, Route)]


def every_call(house: House) -> list[tuple[str, str]]:
    """(method, path template) of everything that the application answers to."""
    document = house.running.app.openapi()["paths"]
    documented = {(m.upper(), path) for path, methods in document.items() for m in methods}
    plain = {(method, route.path) for route in routes(house) for method in route.methods or ()}
    return sorted(documented | plain)


def dependencies(dependant: Dependant) -> Iterator[Any]:
    for inner in dependant.dependencies:
        yield inner.call
        yield from dependencies(inner)


def filled(path: str, store: str, file: str, batch: str = "vsfb_none") -> str:
    values = {"vector_store_id": store, "file_id": file, "batch_id": batch}
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    return (
        path.replace("{model:path}", f"extractive@{store}")
        .replace("{model}", f"extractive@{store}")
        .replace("{name}", "extractive")
    )


BODIES: dict[str, Any] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "What is the fine?"}]},
    "/v1/embeddings": {"input": "a"},
    "/v1/vector_stores/{vector_store_id}/search": {"query": "fine"},
    "/v1/vector_stores/{vector_store_id}/files/{file_id}": {"attributes": {}},
}


def call(
    client: httpx.Client, method: str, template: str, store: str, file: str, batch: str = "none"
) -> httpx.Response:
    body = dict(BODIES.get(template, {}))
    if template.endswith("chat/completions"):
        body["model"] = f"extractive@{store}"
    if template.endswith("/files") and method == "POST" and "stores" in template:
        body["file_id"] = file
    if template.endswith("/file_batches"):
        body["file_ids"] = [file]
    path = filled(template, store, file, batch)
    return client.request(method, path, json=body if method == "POST" else None)


def test_every_route_has_a_rule(house: House) -> None:
    """A route without one is open to every key, or an oversight."""
    found = [route for route in routes(house) if isinstance(route, APIRoute)]
    assert len(found) > 25
    for route in found:
        if route.path not in OPEN | {"/docs/oauth2-redirect"}:
            assert RULES & set(dependencies(route.dependant)), f"{route.path} has no rule"


@pytest.mark.parametrize("key", [None, "wrong", "full=laws:read", f"{READER}=laws:read"])
def test_no_key_or_a_wrong_one(house: House, key: str | None) -> None:
    with http(house, key) as client:
        for method, template in every_call(house):
            answer = call(client, method, template, "laws", house.laws_file)
            is_open = template in OPEN or template.startswith("/static-offline-docs")
            if is_open:
                assert answer.status_code in (200, 307, 404) or "ready" in template, template
            elif method == "HEAD":
                assert answer.status_code == 401, template
            else:
                assert refused(answer, 401)["code"] == "invalid_api_key", template


ADMINISTRATIVE = {
    ("POST", "/cache/clear"), ("GET", "/metrics"), ("GET", "/v1/providers"),
    ("GET", "/v1/providers/{name}"), ("POST", "/v1/vector_stores/{vector_store_id}/rebuild"),
}  # fmt: skip


@pytest.mark.parametrize("key", [READER, WRITER, OTHER, EVERYWHERE])
def test_what_concerns_the_whole_backend(house: House, key: str) -> None:
    with http(house, key) as client:
        for method, template in sorted(ADMINISTRATIVE):
            error = refused(call(client, method, template, "laws", house.laws_file), 403)
            assert error["code"] == "insufficient_permissions"
    with http(house, FULL) as client:
        for method, template in sorted(ADMINISTRATIVE):
            assert call(client, method, template, "laws", house.laws_file).status_code == 200


@pytest.mark.parametrize("key", [READER, WRITER])
def test_another_store_does_not_exist(house: House, key: str) -> None:
    """Whatever names a store, a file or a batch: the same answer as for one that there is not."""
    with http(house, key) as client:
        for method, template in every_call(house):
            named = ("{vector_store_id}", "{file_id}", "{model")
            if not any(name in template for name in named):
                continue
            if (method, template) in ADMINISTRATIVE:
                continue
            answers = [
                call(client, method, template, "drafts", house.drafts_file, house.batch),
                call(client, method, template, "no-such", "file-none", "vsfb_none"),
            ]
            assert [a.status_code for a in answers] == [404, 404], (method, template)
            if method != "HEAD":
                texts = [a.json()["error"]["message"] for a in answers]
                blank = [
                    t.replace("drafts", "X").replace("no-such", "X")
                    .replace(house.drafts_file, "F").replace("file-none", "F")
                    for t in texts
                ]  # fmt: skip
                assert blank[0] == blank[1], (method, template)


def rebuilt(client: httpx.Client, store: str) -> dict[str, Any]:
    """The store, once nothing is under way that others have asked for."""
    deadline = time.monotonic() + PATIENCE
    while (found := client.get(f"/v1/vector_stores/{store}").json())["status"] != "completed":
        assert time.monotonic() < deadline, found
    return dict(found)


def test_a_reader_reads_and_changes_nothing(house: House) -> None:
    looks = {"/v1/vector_stores/{vector_store_id}/search", "/v1/chat/completions"}
    with http(house, READER) as client, http(house, FULL) as full:
        before = rebuilt(full, "laws")["revision"]
        for method, template in every_call(house):
            of_a_store = "{vector_store_id}" in template or "{file_id}" in template
            if not of_a_store or (method, template) in ADMINISTRATIVE or "batch" in template:
                continue
            answer = call(client, method, template, "laws", house.laws_file)
            if method in ("GET", "HEAD") or template in looks:
                assert answer.status_code == 200, (method, template, answer.text)
            else:
                error = refused(answer, 403)
                assert error["code"] == "insufficient_permissions"
                assert "`write`" in error["message"]
        assert full.get("/v1/vector_stores/laws").json()["revision"] == before


def test_chat_asks_only_what_the_key_reads(house: House) -> None:
    ask = {"messages": [{"role": "user", "content": "What is the fine for parking on a bridge?"}]}
    with http(house, READER) as client:
        answer = client.post("/v1/chat/completions", json={**ask, "model": "@laws"})
        assert answer.status_code == 200
        (citation,) = answer.json()["citations"]
        assert client.get(citation["url"].partition("#")[0]).status_code == 200
        for model in ("@drafts", "extractive@drafts"):
            error = refused(
                client.post("/v1/chat/completions", json={**ask, "model": model}), 404, "model"
            )
            assert error["code"] == "model_not_found"
        error = refused(client.post("/v1/chat/completions", json=ask), 403)
        assert "`read`" in error["message"]
        assert "default" in error["message"]
    with http(house, OTHER) as client:  # the same body, while the answer is in the cache
        refused(client.post("/v1/chat/completions", json={**ask, "model": "@laws"}), 404, "model")
        link = citation["url"].partition("#")[0]
        refused(client.get(link), 404, "file_id")


def test_lists_show_what_the_key_may_see(house: House) -> None:
    seen: dict[str, Any] = {}
    for key in (FULL, READER, OTHER, EVERYWHERE):
        with http(house, key) as client:
            stores = {s["name"] for s in client.get("/v1/vector_stores").json()["data"]}
            files = {f["id"] for f in client.get("/v1/files").json()["data"]}
            models = {m["id"] for m in client.get("/v1/models").json()["data"]}
            seen[key] = (stores, files, models)
    assert seen[READER] == ({"laws"}, {house.laws_file}, {"extractive@laws"})
    assert seen[OTHER] == ({"drafts"}, {house.drafts_file}, {"extractive@drafts"})
    assert seen[FULL][0] == seen[EVERYWHERE][0] == {"default", "laws", "drafts"}
    assert seen[EVERYWHERE][1] == {house.laws_file, house.drafts_file}
    with http(house, READER) as client:
        for path in ("/v1/files", "/v1/vector_stores"):
            cursor = house.drafts_file if path == "/v1/files" else "vs_other"
            refused(client.get(path, params={"after": cursor}), 400, "after")


def test_a_writer_uploads_attaches_and_deletes_its_own(house: House) -> None:
    with http(house, WRITER) as client, http(house, OTHER) as other:
        upload = {"file": ("note.md", b"# Note\n\nBridges are closed on Monday.\n")}
        own = client.post("/v1/files", files=upload).json()["id"]
        assert client.get(f"/v1/files/{own}").status_code == 200
        refused(other.get(f"/v1/files/{own}"), 404, "file_id")
        refused(other.get(f"/v1/files/{own}/content"), 404, "file_id")
        refused(other.delete(f"/v1/files/{own}"), 404, "file_id")
        # Attaching is reading: a file that may not be seen cannot be pulled into one's own store.
        for theirs in (house.drafts_file, "file-none"):
            path = "/v1/vector_stores/laws"
            refused(client.post(f"{path}/files", json={"file_id": theirs}), 404, "file_id")
            batch = {"file_ids": [own, theirs]}
            refused(client.post(f"{path}/file_batches", json=batch), 404, "file_id")
        assert client.post("/v1/vector_stores/laws/files", json={"file_id": own}).is_success
        with http(house, READER) as reader:
            assert reader.get(f"/v1/files/{own}").status_code == 200
            assert refused(reader.delete(f"/v1/files/{own}"), 403)["code"] == (
                "insufficient_permissions"
            )
        with http(house, FULL) as full:  # now in a store that the writer may not write to
            assert full.post("/v1/vector_stores/drafts/files", json={"file_id": own}).is_success
        assert "drafts" not in refused(client.delete(f"/v1/files/{own}"), 403)["message"]
        assert other.delete(f"/v1/vector_stores/drafts/files/{own}").is_success
        assert client.delete(f"/v1/files/{own}").is_success


def test_who_may_change_nothing_uploads_nothing(house: House) -> None:
    with http(house, READER) as client:
        upload = {"file": ("note.md", b"# Note\n")}
        assert "write" in refused(client.post("/v1/files", files=upload), 403)["message"]


@pytest.mark.parametrize("key", [None, "wrong", READER])
def test_health_names_nothing_for_those_who_may_not_know(house: House, key: str | None) -> None:
    with http(house, key) as client, http(house, FULL) as full:
        assert client.get("/health").json() == {
            "status": "ok",
            "service": "rag-backend",
            "encoder": {"ready": True},
        }
        assert "storage" in full.get("/health").json()
        mine, theirs = (c.get("/health/ready").json() for c in (client, full))
        assert not any("detail" in row for row in mine["dependencies"])
        assert all("detail" in row for row in theirs["dependencies"])


def test_stores_are_made_and_renamed_within_ones_rights(house: House) -> None:
    with http(house, WRITER) as client:
        for body in ({}, {"name": "mine"}):
            error = refused(client.post("/v1/vector_stores", json=body), 403)
            assert error["code"] == "insufficient_permissions"
        said = {  # what the key may do, and the same words whether there is such a store or not
            name: refused(client.post("/v1/vector_stores", json={"name": name}), 403)["message"]
            for name in ("drafts", "absent")
        }
        assert said["drafts"].endswith("it has laws:write.")
        assert said["drafts"] == said["absent"].replace("absent", "drafts")
        refused(client.post("/v1/vector_stores/laws", json={"name": "elsewhere"}), 403)
        described = client.post("/v1/vector_stores/laws", json={"description": "Fines"})
        assert described.json()["description"] == "Fines"


def test_any_key_may_embed(house: House) -> None:
    with http(house, READER) as client:
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200
