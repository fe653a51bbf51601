"""`LLM_PROVIDER=smart` through a real backend: who is asked, what is said of it, what it costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.backend import PATIENCE, BackendProcess, backend
from tests.openai_server import OpenAIServer, Reply

EASY = "How many days of annual leave are there?"
HARD = (
    "Why do the rules for annual leave and for sick leave differ, and how do they interact? "
    "Compare both and explain what happens to leave that was not taken."
)
NOTES = (
    "# Annual leave\n\nEmployees have twelve days of annual leave.\n\n"
    "# Sick leave\n\nSick leave is thirty days. What is not taken ends with the year.\n"
)
KEY = "sk-of-the-strong-one"
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
TOO_LONG = Reply.error(400, "Too long.", code="context_length_exceeded", kind="invalid_request")


@pytest.fixture(scope="module")
def local() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


@pytest.fixture(scope="module")
def strong() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


@pytest.fixture(scope="module")
def smart(
    tmp_path_factory: pytest.TempPathFactory, local: OpenAIServer, strong: OpenAIServer
) -> Iterator[BackendProcess]:
    """One document; a local and a strong model; a price for the strong one from the table."""
    settings = {
        "LLM_PROVIDER": "smart",
        "SMART_SHARE": "0.4",
        "LOCAL_LLM_API_URL": local.url,
        "LOCAL_LLM_CONTEXT_TOKENS": "4096",
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": strong.url,
        "OPENAI_MODEL": "gpt-4.1",
        "LLM_MAX_ATTEMPTS": "1",
        "LLM_BREAKER_THRESHOLD": "0",
        "CACHE_URL": "memory://",
    }
    with backend(tmp_path_factory.mktemp("smart"), **settings) as running:
        with running.client() as client:
            _put(client, "leave.md", "default")
            client.vector_stores.create(name="other")
            _put(client, "leave2.md", "other")
        yield running


@pytest.fixture(autouse=True)
def _clean(smart: BackendProcess, local: OpenAIServer, strong: OpenAIServer) -> None:
    local.reset()
    strong.reset()
    local.default = Reply("The local one says twelve [1].")
    strong.default = Reply("The strong one explains it [1].")
    httpx.post(f"{smart.url}/cache/clear", timeout=PATIENCE)


def _put(client: OpenAI, name: str, store: str) -> None:
    file = client.files.create(file=(name, NOTES.encode()), purpose="assistants")
    done = client.vector_stores.files.create_and_poll(
        file_id=file.id, vector_store_id=store, poll_interval_ms=50
    )
    assert done.status == "completed"


def ask(smart: BackendProcess, question: str = EASY, **body: Any) -> httpx.Response:
    whole = {"messages": [{"role": "user", "content": question}]} | body
    return httpx.post(f"{smart.url}/v1/chat/completions", json=whole, timeout=PATIENCE)


def provider(answer: httpx.Response) -> str:
    """Who signed a plain or a streamed answer."""
    assert answer.status_code == 200, answer.text
    if "event-stream" not in answer.headers["content-type"]:
        return str(answer.json()["provider"])
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return str(json.loads(lines[-2])["provider"])


def asked(*servers: OpenAIServer) -> list[int]:
    return [len(server.chats) for server in servers]


def metric(smart: BackendProcess, name: str, **labels: str) -> float:
    text = httpx.get(f"{smart.url}/metrics", timeout=PATIENCE).text
    families = text_string_to_metric_families(text)
    samples = [s for family in families for s in family.samples if s.name == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


@pytest.mark.parametrize("stream", [False, True])
def test_each_question_reaches_its_model_and_says_why(
    smart: BackendProcess, local: OpenAIServer, strong: OpenAIServer, stream: bool
) -> None:
    easy = ask(smart, stream=stream)
    assert provider(easy) == "local"
    assert easy.headers["x-route"].startswith("local; score=0.")
    assert '; reasons="short' in easy.headers["x-route"]
    assert asked(local, strong) == [1, 0]
    hard = ask(smart, HARD, stream=stream)
    assert provider(hard) == "openai"
    route = hard.headers["x-route"]
    assert route.startswith("openai; score=0.")
    assert "compare" in route
    assert asked(local, strong) == [1, 1]
    assert strong.chats[0].body["model"] == "gpt-4.1"
    assert strong.chats[0].headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in local.chats[0].headers or KEY not in str(local.chats[0].headers)


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_kept_is_found_again_with_its_route(
    smart: BackendProcess, local: OpenAIServer, strong: OpenAIServer, stream: bool
) -> None:
    for question in (EASY, HARD):
        first, *again = [ask(smart, question, stream=stream) for _ in range(4)]
        assert [answer.headers["x-cache"] for answer in (first, *again)] == ["miss"] + 3 * ["hit"]
        assert {answer.headers["x-route"] for answer in again} == {first.headers["x-route"]}
        assert {provider(answer) for answer in again} == {provider(first)}
    assert asked(local, strong) == [1, 1]
    # The same words to a model by its name are another question.
    named = ask(smart, EASY, model="local", stream=stream)
    assert named.headers["x-cache"] == "miss"


def test_a_request_may_name_who_answers(
    smart: BackendProcess, local: OpenAIServer, strong: OpenAIServer
) -> None:
    for model, name in {"local": "local", "openai": "openai", "local@other": "local"}.items():
        answer = ask(smart, HARD, model=model)
        assert provider(answer) == name
        assert answer.headers["x-route"] == f'{name}; reasons="named in the request"'
    assert provider(ask(smart, HARD, model="smart@other")) == "openai"
    assert provider(ask(smart, EASY, model="gpt-4o")) == "local"  # any other name: the chosen one
    assert asked(local, strong) == [3, 2]


def test_what_only_the_strong_one_can_do(
    smart: BackendProcess, local: OpenAIServer, strong: OpenAIServer
) -> None:
    tools = ask(smart, tools=TOOLS)
    assert tools.headers["x-route"] == 'openai; reasons="needs tools"'
    form = ask(smart, response_format={"type": "json_object"})
    assert form.headers["x-route"] == 'openai; reasons="needs response_format"'
    history = [{"role": "user", "content": "word " * 3000}, {"role": "assistant", "content": "ok"}]
    long = ask(smart, messages=[*history, {"role": "user", "content": EASY}])
    assert long.headers["x-route"] == 'openai; reasons="prompt exceeds the local context"'
    assert asked(local, strong) == [0, 3]


def test_a_clients_own_tasks_stay_local(
    smart: BackendProcess, local: OpenAIServer, strong: OpenAIServer
) -> None:
    answer = ask(smart, f"### Task:\nGenerate a title. Why, how and what if? {HARD}")
    assert answer.headers["x-route"] == 'local; reasons="task of the client"'
    assert asked(local, strong) == [1, 0]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_the_local_one_refuses_as_too_long(
    smart: BackendProcess, local: OpenAIServer, strong: OpenAIServer, stream: bool
) -> None:
    local.script(TOO_LONG)
    answer = ask(smart, stream=stream)
    assert provider(answer) == "openai"
    assert answer.headers["x-route"].endswith('refused as too long"')
    assert asked(local, strong) == [1, 1]
    assert ask(smart, stream=stream).headers["x-cache"] == "hit"


def test_the_local_one_stands_in_and_its_answer_is_not_kept(
    smart: BackendProcess, local: OpenAIServer, strong: OpenAIServer
) -> None:
    strong.script(Reply.error(500))
    first = ask(smart, HARD)
    assert (provider(first), first.headers["x-cache"]) == ("local", "miss")
    assert first.headers["x-route"].startswith("openai;")
    again = ask(smart, HARD)
    assert (provider(again), again.headers["x-cache"]) == ("openai", "miss")
    assert asked(local, strong) == [1, 2]


def test_the_strong_one_does_not_stand_in_unless_it_is_listed(
    smart: BackendProcess, local: OpenAIServer, strong: OpenAIServer
) -> None:
    local.script(Reply.error(500))
    answer = ask(smart)
    assert provider(answer) == "extractive"
    assert answer.headers["x-route"].startswith("local;")
    assert asked(local, strong) == [1, 0]


def test_a_strong_one_that_is_away_is_the_error_where_nobody_can_stand_in(
    smart: BackendProcess, local: OpenAIServer, strong: OpenAIServer
) -> None:
    strong.script(Reply.error(503))
    local.script(Reply.error(400, "tools are not offered by this server"))
    answer = ask(smart, tools=TOOLS)
    assert answer.status_code == 503
    assert "'openai'" in answer.json()["error"]["message"]
    assert KEY not in answer.text


def test_curated_and_unanswerable_questions_are_routed_nowhere(
    smart: BackendProcess, local: OpenAIServer, strong: OpenAIServer
) -> None:
    answer = ask(smart, "What does the zoological quantum xylophone weigh?")
    assert provider(answer) == "documents"
    assert "x-route" not in answer.headers
    assert asked(local, strong) == [0, 0]


def test_lists_show_it(smart: BackendProcess) -> None:
    models = [
        row["id"] for row in httpx.get(f"{smart.url}/v1/models", timeout=PATIENCE).json()["data"]
    ]
    assert models[:4] == ["smart", "openai", "local", "extractive"]
    assert "smart@other" in models
    assert httpx.get(f"{smart.url}/v1/models/smart@other", timeout=PATIENCE).status_code == 200
    rows = httpx.get(f"{smart.url}/v1/providers", timeout=PATIENCE).json()["data"]
    assert [row["name"] for row in rows] == ["smart", "openai", "local", "extractive"]
    shown = httpx.get(f"{smart.url}/v1/providers/smart", timeout=PATIENCE).json()
    assert shown["routing"]["target_share"] == 0.4
    assert 0 < shown["routing"]["threshold"] < 1
    prices = {row["name"]: row["price"] for row in rows}
    assert (prices["openai"]["in"], prices["openai"]["out"]) == (2.0, 8.0)
    assert prices["local"]["in"] == 0
    assert KEY not in json.dumps(rows)
    missing = httpx.get(f"{smart.url}/v1/providers/nobody", timeout=PATIENCE)
    assert (missing.status_code, "smart" in smart.output()) == (404, True)
    assert "hard ones, about 40%, from 'openai' (outside this network)" in smart.output()


def test_the_money_adds_up(
    smart: BackendProcess, local: OpenAIServer, strong: OpenAIServer
) -> None:
    names = ("spent", "saved", "overspent", "baseline")

    def dollars() -> dict[str, float]:
        return {name: metric(smart, f"rag_{name}_usd_total") for name in names}

    before, cached = dollars(), metric(smart, "rag_saved_usd_total", by="caching")
    answers = [ask(smart, EASY), ask(smart, HARD), ask(smart, HARD), ask(smart, HARD, stream=True)]
    paid = answers[1].json()["usage"]
    dear = (2.0 * paid["prompt_tokens"] + 8.0 * paid["completion_tokens"]) / 1e6
    moved = {name: value - before[name] for name, value in dollars().items()}
    assert moved["spent"] == pytest.approx(dear)
    assert moved["saved"] > 0
    assert moved["spent"] + moved["saved"] - moved["overspent"] == pytest.approx(moved["baseline"])
    kept = metric(smart, "rag_saved_usd_total", by="caching") - cached
    assert kept == pytest.approx(2 * dear)
    assert metric(smart, "rag_saved_usd_total", by="routing", baseline="openai") > 0
    assert metric(smart, "rag_unpriced_tokens_total") == 0


@pytest.mark.slow
def test_the_share_comes_out(
    smart: BackendProcess, local: OpenAIServer, strong: OpenAIServer
) -> None:
    """Whatever is asked: here, only simple questions."""
    before = metric(smart, "rag_routed_total", rule="score")
    words = ("annual", "sick", "leave", "days", "taken", "year", "thirty", "twelve")
    for turn in range(12):
        for word in words:
            ask(smart, f"How many {word} days of leave {turn}?", model="smart")
    routed = metric(smart, "rag_routed_total", rule="score") - before
    assert routed == 96
    assert asked(local, strong)[0] + asked(local, strong)[1] == 96
    assert 0.25 <= asked(strong)[0] / 96 <= 0.5
    assert metric(smart, "rag_route_score_count") >= 96
