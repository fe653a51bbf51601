"""Repeated questions through a real backend: who is asked, what comes back, what is not shared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.e2e.backend import BackendProcess, backend
from tests.e2e.gateway import asking, statuses
from tests.openai_server import OpenAIServer, Reply
from tests.rag_backend.llm.cache.redis_server import RedisServer

KEYS = ("key-of-one", "key-of-another")
NOTES = "# Leave\n\nEmployees have twelve days of annual leave.\n"


@pytest.fixture(scope="module")
def model() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module", params=["memory", "redis"])
def caching(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model: OpenAIServer
) -> Iterator[BackendProcess]:
    """A backend with one document and one provider, whose stand-in is `extractive`."""
    folder = tmp_path_factory.mktemp("caching")
    url = "memory://"
    if request.param == "redis":
        url = request.getfixturevalue("redis").url
    settings = {
        "LOCAL_LLM_API_URL": model.url,
        "LLM_MAX_ATTEMPTS": "1",
        "API_KEYS": ",".join(KEYS),
        "CACHE_URL": url,
    }
    with backend(folder, **settings) as running:
        put(running, "leave.md", NOTES)
        yield running


@pytest.fixture(autouse=True)
def _clean(model: OpenAIServer, caching: BackendProcess) -> None:
    post(caching, "/cache/clear")
    model.reset()


def post(
    running: BackendProcess,
    path: str,
    body: Any = None,
    *,
    key: str = KEYS[0],
    timeout: float = 60,
    **headers: str,
) -> httpx.Response:
    sent = {"authorization": f"Bearer {key}"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return httpx.post(f"{running.url}{path}", json=body, headers=sent, timeout=timeout)


def put(running: BackendProcess, name: str, text: str) -> None:
    with running.client().with_options(api_key=KEYS[0]) as client:
        file = client.files.create(file=(name, text.encode()), purpose="assistants")
        done = client.vector_stores.files.create_and_poll(
            file_id=file.id, vector_store_id="default", poll_interval_ms=50
        )
        assert done.status == "completed"


def ask(running: BackendProcess, question: str = "How many days of leave?", **more: Any) -> Any:
    body = {"messages": [{"role": "user", "content": question}]} | more.pop("body", {})
    return post(running, "/v1/chat/completions", body, **more)


def content(answer: httpx.Response) -> str:
    """The text of a plain or a streamed answer."""
    if "event-stream" not in answer.headers["content-type"]:
        return str(answer.json()["choices"][0]["message"]["content"])
    return "".join(d.get("content", "") for d in deltas(answer))


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def deltas(answer: httpx.Response) -> list[dict[str, Any]]:
    return [c["delta"] for event in events(answer) for c in event["choices"]]


def shape(value: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k not in ("id", "created")}


def test_plain_and_streamed_share_one_answer(caching: BackendProcess, model: OpenAIServer) -> None:
    first = ask(caching)
    assert first.headers["x-cache"] == "miss"
    for _ in range(3):  # the short way is taken from the third time on
        again = ask(caching)
        assert (again.headers["x-cache"], again.status_code) == ("hit", 200)
        assert shape(again.json()) == shape(first.json())
        assert list(again.json()) == list(first.json())
        assert again.json()["id"] != first.json()["id"]
        assert again.headers["x-request-id"].startswith("req_")
    streamed = ask(caching, body={"stream": True})
    assert streamed.headers["x-cache"] == "hit"
    assert content(streamed) == content(first)
    cited = next(event for event in events(streamed) if "citations" in event)
    assert cited["citations"] == first.json()["citations"]
    assert not any("usage" in event for event in events(streamed))
    counted = ask(caching, body={"stream": True, "stream_options": {"include_usage": True}})
    assert events(counted)[-1]["usage"] == first.json()["usage"]
    assert len(model.chats) == 1


def test_a_stream_is_given_again_chunk_by_chunk(
    caching: BackendProcess, model: OpenAIServer
) -> None:
    first, *rest = [ask(caching, body={"stream": True}) for _ in range(4)]
    assert first.headers["x-cache"] == "miss"
    for again in rest:
        assert again.headers["x-cache"] == "hit"
        assert list(map(shape, events(again))) == list(map(shape, events(first)))
        assert again.headers["content-type"] == first.headers["content-type"]
        assert again.headers["x-accel-buffering"] == "no"
    assert ask(caching).headers["x-cache"] == "hit"
    assert len(model.chats) == 1


def test_other_parameters_and_other_keys_are_other_questions(
    caching: BackendProcess, model: OpenAIServer
) -> None:
    for more in ({}, {"body": {"temperature": 0.3}}, {"body": {"seed": 4}}, {"key": KEYS[1]}):
        assert ask(caching, **more).headers["x-cache"] == "miss"
        assert ask(caching, **more).headers["x-cache"] == "hit"
    assert len(model.chats) == 4


def test_bypassing(caching: BackendProcess, model: OpenAIServer) -> None:
    model.script(Reply("Old [1]."), Reply("New [1]."), Reply("Secret [1]."))
    assert content(ask(caching)) == "Old [1]."
    fresh = ask(caching, cache_control="no-cache")
    assert (fresh.headers["x-cache"], content(fresh)) == ("bypass", "New [1].")
    private = ask(caching, cache_control="no-store")
    assert (private.headers["x-cache"], content(private)) == ("bypass", "Secret [1].")
    again = ask(caching)
    assert (again.headers["x-cache"], content(again)) == ("hit", "New [1].")


def test_clearing(caching: BackendProcess) -> None:
    ask(caching)
    ask(caching, "How much leave is there?")
    assert post(caching, "/cache/clear").json() == {"object": "cache.cleared", "cleared": 2}
    assert ask(caching).headers["x-cache"] == "miss"
    assert post(caching, "/cache/clear", key="wrong").status_code == 401
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    shown = httpx.get(f"{caching.url}/metrics", headers=headers, timeout=60)
    assert 'rag_cache_requests_total{outcome="miss"}' in shown.text


def test_documents_that_change_make_it_another_question(
    caching: BackendProcess, model: OpenAIServer
) -> None:
    for _ in range(3):
        ask(caching)
    put(caching, "more.md", "# More\n\nManagers have twenty days of annual leave.\n")
    assert ask(caching).headers["x-cache"] == "miss"
    assert ask(caching).headers["x-cache"] == "hit"
    assert len(model.chats) == 2


@pytest.mark.parametrize(
    "reply", [Reply.error(500), Reply(finish_reason=None), Reply(cut="first_token")]
)
def test_a_stand_ins_answer_is_not_kept(
    caching: BackendProcess, model: OpenAIServer, reply: Reply
) -> None:
    model.script(reply)
    first = ask(caching)
    if first.status_code == 200:
        assert first.json()["provider"] == "extractive"
    again = ask(caching)
    assert (again.headers["x-cache"], again.json()["provider"]) == ("miss", "local")


def test_identical_questions_share_a_call(caching: BackendProcess, model: OpenAIServer) -> None:
    model.script(Reply(stall="middle"))
    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(ask, caching, body={"stream": n % 2 == 0}) for n in range(8)]
        model.wait_for(lambda server: len(server.chats) == 1)
        model.release()
        answers = [one.result(60) for one in asking]
    served = sorted(answer.headers["x-cache"] for answer in answers)
    assert served[0] in ("hit", "miss")
    assert served.count("miss") == 1
    assert len({content(answer) for answer in answers}) == 1
    assert len(model.chats) == 1


def test_a_client_that_leaves_takes_no_follower_along(
    caching: BackendProcess, model: OpenAIServer
) -> None:
    model.script(Reply(stall="middle"))
    request_id, key = uuid4().hex, f"Bearer {KEYS[0]}"
    body = {"messages": [{"role": "user", "content": "How many days of leave?"}]}
    url, headers = f"{caching.url}/v1/chat/completions", {"authorization": key}
    leader = asking(caching, body, authorization=key, **{"x-request-id": request_id})
    with leader:
        model.wait_for(lambda server: len(server.chats) == 1)
        streamed = body | {"stream": True}
        following = httpx.stream("POST", url, json=streamed, headers=headers, timeout=60)
        with following as follower:  # from its first piece on
            assert follower.headers["x-cache"] == "shared"
            leader.close()
            assert statuses(caching, request_id) == [499]
            assert not model.chats[0].disconnected.is_set()
            model.release()
            assert follower.read().endswith(b"data: [DONE]\n\n")
    assert ask(caching).headers["x-cache"] == "hit"
    assert len(model.chats) == 1


def test_the_last_client_to_leave_frees_the_upstream(
    caching: BackendProcess, model: OpenAIServer
) -> None:
    model.script(Reply(stall="middle"))
    body = {"messages": [{"role": "user", "content": "How many days of leave?"}]}
    with asking(caching, body, authorization=f"Bearer {KEYS[0]}"):
        model.wait_for(lambda server: len(server.chats) == 1)
    assert model.chats[0].disconnected.wait(20)  # LLM_IDLE_TIMEOUT is 30
    assert ask(caching).headers["x-cache"] == "miss"


@pytest.mark.slow
def test_redis_dying_costs_no_answer(tmp_path: Path, model: OpenAIServer) -> None:
    with RedisServer(tmp_path) as server:
        settings = {"LOCAL_LLM_API_URL": model.url, "CACHE_URL": server.url}
        with backend(tmp_path / "backend", **settings, API_KEYS=KEYS[0]) as running:
            assert [ask(running).headers["x-cache"] for _ in range(2)] == ["miss", "hit"]
            server.freeze()
            assert [ask(running).status_code for _ in range(3)] == [200] * 3
            server.kill()
            assert [ask(running).status_code for _ in range(3)] == [200] * 3
            refused = post(running, "/cache/clear")
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                503,
                "cache_unavailable",
            )
            server.start()
            for _ in range(600):
                if ask(running).headers["x-cache"] == "hit":
                    break
            else:
                raise AssertionError(running.output())
