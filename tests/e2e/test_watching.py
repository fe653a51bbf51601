"""What an operator sees of a real backend: log, metrics, health; and what nobody sees."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.backend import EXAMPLES, PATIENCE, BackendProcess, backend, ingest, started
from tests.e2e.gateway import LIMITS
from tests.openai_server import OpenAIServer, Reply
from tests.ports import refusing

KEY = "client-key-0123456789"
SECRETS = {
    "API_KEYS": f"{KEY},second-key-abcdef",
    "OPENAI_API_KEY": "sk-proj-watching-0123456789",
    "LOCAL_LLM_API_KEY": "lan-key-0123456789",
    "ROW_KEY": "row-key-0123456789",
}
PASSWORD = "redis-pass-0123456789"
QUESTION = "How many days of annual leave do employees get?"


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory, upstream: OpenAIServer
) -> Iterator[BackendProcess]:
    """Every kind of secret set; a local host and a Redis that are away."""
    folder = tmp_path_factory.mktemp("watched")
    row = {"base_url": upstream.url, "model": "m", "api_key_env": "ROW_KEY"}
    (folder / "providers.json").write_text(json.dumps({"providers": {"row": row}}))
    with refusing() as nobody:
        port = nobody.rpartition(":")[2].partition("/")[0]
        settings = {
            "LLM_PROVIDER": "openai",
            "LLM_FALLBACK": "extractive",
            "LLM_PROVIDERS": "providers.json",
            "OPENAI_BASE_URL": upstream.url,
            "LOCAL_LLM_API_URL": nobody,
            "CACHE_URL": f"redis://:{PASSWORD}@127.0.0.1:{port}/0",
            "HEALTH_INTERVAL": "0.2",
            "LLM_BREAKER_THRESHOLD": "0",  # one test's failures are not the next one's
        }
        with backend(folder, **settings, **SECRETS, **LIMITS) as running:
            done = ingest(str(EXAMPLES), "--url", running.url, "--api-key", KEY, folder=folder)
            assert done.returncode == 0, done.stdout + done.stderr
            yield running


@pytest.fixture(autouse=True)
def _as_it_was(upstream: OpenAIServer) -> Iterator[None]:
    yield
    upstream.default = Reply()


def client(running: BackendProcess, key: str = KEY) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=running.url, headers=headers, timeout=PATIENCE)


def ask(
    running: BackendProcess, request_id: str, said: str = QUESTION, **more: Any
) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": said}], **more}
    with client(running) as http:
        headers = {"x-request-id": request_id}
        return http.post("/v1/chat/completions", json=body, headers=headers)


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log; what the start tells people, on stdout, is not part of it."""
    text = (folder / "backend.log").read_text("utf-8").splitlines()
    return [json.loads(line) for line in text if line.startswith("{")]


def eventually(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=PATIENCE).status_code == 200
    except httpx.TransportError:
        return False


def line_of(running: BackendProcess, request_id: str) -> dict[str, Any]:
    """A request's own line."""

    def look() -> dict[str, Any] | None:
        own = [one for one in lines(running.folder) if one.get("id") == request_id]
        return next((one for one in own if one["logger"] == "rag_backend.requests"), None)

    found: dict[str, Any] = eventually(look)
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_one_line_a_request(watched: BackendProcess, upstream: OpenAIServer, stream: bool) -> None:
    upstream.default = Reply(text="It is 45,000 VND [1].")
    assert ask(watched, f"line-{stream}", stream=stream).status_code == 200
    line = line_of(watched, f"line-{stream}")
    assert line["message"] == "POST /v1/chat/completions 200"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/chat/completions", 200)
    assert line["provider"] == "openai"
    assert line["model"]
    assert line["store"].startswith("vs_")
    assert line["cache"] == "miss"
    assert line["grounding"] == "passages"
    assert line["passages"] > 0
    assert line["tokens_in"] > 0
    assert line["tokens_out"] > 0
    for name in ("total_ms", "first_token_ms", "retrieval_ms", "condense_ms"):
        assert 0 <= line[name] <= line["total_ms"]
    assert "path" not in line


def test_no_text_of_anybody_in_the_log(watched: BackendProcess, upstream: OpenAIServer) -> None:
    upstream.default = Reply(text="The allowance is a secret of the house.")
    ask(watched, "content-1")
    line_of(watched, "content-1")
    shown = json.dumps(lines(watched.folder), ensure_ascii=False)
    for text in ("annual leave", "secret of the house", "handbook", "faq.csv"):
        assert text not in shown


def test_a_failure_leaves_its_class_and_who_stood_in(
    watched: BackendProcess, upstream: OpenAIServer
) -> None:
    upstream.default = Reply(status=500)
    assert ask(watched, "fallback-1").status_code == 200
    line = line_of(watched, "fallback-1")
    assert line["provider"] == "extractive"
    assert line["fallbacks"] == ["openai"]
    assert line["retries"] == 1
    warned = [one for one in lines(watched.folder) if one.get("id") == "fallback-1"]
    assert any(one["level"] == "warning" for one in warned)
    upstream.default = Reply(status=400, failure={"message": "no", "type": "invalid_request_error"})
    assert ask(watched, "refused-1").status_code == 400
    assert line_of(watched, "refused-1")["error"] == "UpstreamRefused"


def test_no_key_in_any_line_or_response(watched: BackendProcess, upstream: OpenAIServer) -> None:
    seen: list[str] = []
    for secret in SECRETS["OPENAI_API_KEY"], SECRETS["ROW_KEY"]:
        said = f"Incorrect API key provided: {secret}. Sent: Authorization: Bearer {secret}"
        failure = {"message": said, "type": "x", "code": "invalid_api_key", "param": None}
        for status, stream in ((400, False), (401, True), (403, False), (429, True), (500, False)):
            upstream.default = Reply(status=status, failure=failure)
            for model in ("openai", "row"):
                answer = ask(watched, "keys", "Hello!", model=model, stream=stream)
                seen.append(answer.text + str(answer.headers))
        upstream.default = Reply(text="a b c", fail_at="middle", failure=failure)
        answer = ask(watched, "keys", "Hello!", stream=True)
        seen.append(answer.text + str(answer.headers))
    wrong = "wrong-key-of-a-client"
    paths = [
        f"/v1/models?api_key={KEY}",
        f"/v1/{KEY}",
        f"/v1/models/{SECRETS['LOCAL_LLM_API_KEY']}",
    ]
    for path in [*paths, "/v1/providers", "/metrics", "/health", "/health/ready", "/openapi.json"]:
        for key in (KEY, wrong):
            with client(watched, key) as http:
                answer = http.get(path, headers={"x-request-id": "last"})
                # What a client put into a path, it may read back; nobody else reads it.
                seen.append(
                    (answer.text + str(answer.headers)).replace(path.rpartition("/")[2], "")
                )
    with client(watched) as http:
        seen.append(http.post("/cache/clear").text)
        seen.append(http.get("/metrics", headers={"accept": "application/json"}).text)
    line_of(watched, "last")
    everything = "\n".join([*seen, watched.output()])
    for secret in [*",".join(SECRETS.values()).split(","), PASSWORD, wrong]:
        assert secret not in everything


def test_metrics_are_prometheus_own_format(watched: BackendProcess, upstream: OpenAIServer) -> None:
    upstream.default = Reply(text="It is 45,000 VND [1].")
    assert ask(watched, "metrics-1").status_code == 200
    with client(watched) as http:
        http.get("/v1/made-up")
        answer = http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        openmetrics = http.get("/metrics", headers={"accept": "application/openmetrics-text"})
        assert openmetrics.text.endswith("# EOF\n")
        summed = http.get("/metrics", headers={"accept": "application/json"}).json()
    assert "made-up" not in answer.text
    families = {one.name: one for one in text_string_to_metric_families(answer.text)}

    def value(name: str, **labels: str) -> float:
        samples = [s for s in families[name].samples if not s.name.endswith("_bucket")]
        return next(s.value for s in samples if labels.items() <= s.labels.items())

    assert value("rag_requests", route="unknown", status="404") >= 1
    assert value("rag_files", status="completed") > 0
    assert value("rag_files_indexed", outcome="completed") > 0
    assert value("rag_chunks_indexed") > 0
    for stage in ("read", "embed", "write"):
        assert value("rag_ingest_seconds", stage=stage) > 0
    for stage in ("retrieve", "condense"):
        assert value("rag_stage_seconds", stage=stage) >= 1
    assert value("rag_answer_seconds", provider="openai") >= 0
    assert value("rag_breaker_state", provider="openai", state="closed") == 1
    assert value("rag_dependency_up", dependency="cache") == 0
    assert value("process_resident_memory_bytes") > 0
    assert summed["rag_files"]["values"]
    assert summed["rag_first_token_seconds"]["values"][0]["p95"] is not None


def test_readiness_names_what_is_away(watched: BackendProcess, upstream: OpenAIServer) -> None:
    def report() -> dict[str, Any]:
        with client(watched) as asking:
            answer = asking.get("/health/ready")
        assert answer.status_code == 200, "a stand-in answers"
        found: dict[str, Any] = answer.json()
        return found

    def away() -> set[str]:
        return {one["name"] for one in report()["missing"]}

    eventually(lambda: {"cache", "provider local"} <= away())
    assert report()["status"] == "degraded"
    missing = {one["name"]: one for one in report()["missing"]}
    assert "cannot be reached" in missing["provider local"]["reason"]
    assert missing["cache"]["since"] <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    before = len(upstream.requests)
    eventually(lambda: len(upstream.requests) > before)  # it is looked at …
    paths = {one.path for one in upstream.requests[before:]}
    assert not any("completions" in path for path in paths)  # … and never asked
    assert httpx.get(f"{watched.url}/health", timeout=PATIENCE).json()["status"] == "ok"


def test_unready_where_nobody_can_answer(tmp_path: Path) -> None:
    with refusing() as nobody:
        settings = {
            "LLM_PROVIDER": "local",
            "LLM_FALLBACK": "none",
            "LOCAL_LLM_API_URL": nobody,
            "EMBEDDING_URL": nobody,
            "HEALTH_INTERVAL": "0.1",
        }
        with started(tmp_path, **settings) as running:
            eventually(lambda: answers(running.url))

            def report() -> httpx.Response:
                return httpx.get(f"{running.url}/health/ready", timeout=PATIENCE)

            def names() -> set[str]:
                return {one["name"] for one in report().json()["missing"]}

            eventually(lambda: names() == {"encoder", "provider local"})
            assert report().status_code == 503
            assert report().json()["status"] == "unready"
            live = httpx.get(f"{running.url}/health", timeout=PATIENCE)
            assert (live.status_code, live.json()["status"]) == (200, "starting")
