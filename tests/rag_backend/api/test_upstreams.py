"""What a client sees when the model server fails, and what the model server sees when it leaves."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.openai_server import OpenAIServer, Reply
from tests.rag_backend.api.serving import Running
from tests.rag_backend.api.test_chat import ask, messages

CHAT = "/v1/chat/completions"


def post(backend: Running, **options: Any) -> httpx.Response:
    with backend.http() as http:
        return http.post(CHAT, json={"messages": messages(), "model": "openai"} | options)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (Reply.error(500), 502, "upstream_error"),
        (Reply.error(429, headers={"retry-after": "7"}), 429, "rate_limit_exceeded"),
        (Reply.error(400, "Bad temperature.", code="odd", param="temperature"), 400, "odd"),
        (Reply.error(401, "Incorrect key", code="invalid_api_key"), 502, "upstream_key_refused"),
        (Reply.html(), 502, "upstream_broken"),
        (Reply(cut="first_token"), 502, "upstream_broken"),
    ],
    ids=["500", "429", "400", "401", "html", "cut"],
)
def test_a_failure_before_the_first_word_has_its_own_status(
    backend: Running, cloud: OpenAIServer, reply: Reply, status: int, code: str, streamed: bool
) -> None:
    cloud.script(reply)
    answer = post(backend, stream=streamed)
    assert answer.status_code == status, answer.text
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["code"] == code
    assert "sk-test" not in answer.text
    if status == 429:
        assert answer.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    "reply",
    [Reply(cut="middle"), Reply(garbage=True), Reply(finish_reason=None)],
    ids=["cut", "garbage", "unfinished"],
)
def test_a_failure_later_is_an_event(backend: Running, cloud: OpenAIServer, reply: Reply) -> None:
    cloud.script(reply)
    answer = post(backend, stream=True)
    assert answer.status_code == 200
    events = answer.text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2].removeprefix("data: "))["error"]["message"]
    cloud.script(reply)
    assert post(backend).status_code == 502
    cloud.script(reply)
    with pytest.raises(openai.APIError), backend.sdk() as client:
        for _ in client.chat.completions.create(model="openai", messages=messages(), stream=True):
            pass


def test_a_client_does_not_take_the_backends_key_for_its_own(
    backend: Running, cloud: OpenAIServer
) -> None:
    cloud.script(Reply.error(401, "Incorrect API key provided.", code="invalid_api_key"))
    with backend.sdk() as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="openai", messages=messages())
    assert (caught.value.status_code, caught.value.type) == (502, "api_error")
    assert "key of this backend (401), not a client's" in caught.value.message
    assert "OPENAI_API_KEY" in caught.value.message


async def test_hanging_up_on_a_plain_answer_frees_the_upstream(
    backend: Running, cloud: OpenAIServer
) -> None:
    cloud.script(Reply(stall="middle"))
    seen = len(cloud.chats)
    async with httpx.AsyncClient(base_url=backend.url, timeout=60) as http:
        body = {"messages": messages(), "model": "openai"}
        asking = asyncio.create_task(http.post(CHAT, json=body))
        await asyncio.to_thread(cloud.wait_for, lambda server: len(server.chats) > seen)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert await asyncio.to_thread(cloud.chats[-1].disconnected.wait, 60)


@pytest.mark.parametrize("place", ["first_token", "middle"])
async def test_hanging_up_on_a_stream_frees_the_upstream(
    backend: Running, cloud: OpenAIServer, place: Any
) -> None:
    cloud.script(Reply(stall=place))
    seen = len(cloud.chats)
    async with AsyncOpenAI(base_url=f"{backend.url}/v1", api_key="none", max_retries=0) as client:

        async def read_on() -> None:
            chunks = await client.chat.completions.create(
                model="openai", messages=messages(), stream=True
            )
            async for _ in chunks:
                pass

        reading = asyncio.create_task(read_on())
        await asyncio.to_thread(cloud.wait_for, lambda server: len(server.chats) > seen)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert await asyncio.to_thread(cloud.chats[-1].disconnected.wait, 60)


def test_the_backend_goes_on_after_all_this(backend: Running) -> None:
    assert ask(backend)["citations"]
