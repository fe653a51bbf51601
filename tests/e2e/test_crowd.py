"""Far more clients at once than the backend takes."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.e2e.backend import PATIENCE, backend
from tests.openai_server import OpenAIServer, Reply

pytestmark = pytest.mark.slow

CLIENTS, PLACES, QUEUE = 200, 4, 8


async def crowd(url: str) -> list[tuple[int, str | None]]:
    """(status, Retry-After) of every client; each sends a question of its own, half of them
    for a stream."""

    async def one(session: aiohttp.ClientSession, number: int) -> tuple[int, str | None]:
        text = f"Question {number}? " + "word " * 10_000
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": text}],
            "stream": bool(number % 2),
        }
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            whole = await answer.text()
            assert answer.headers["x-request-id"]
            if answer.status == 200 and number % 2:
                assert whole.endswith("data: [DONE]\n\n")
            return answer.status, answer.headers.get("retry-after")

    connector = aiohttp.TCPConnector(limit=0)
    limit = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:
        return await asyncio.gather(*(one(session, number) for number in range(CLIENTS)))


async def test_everyone_gets_an_answer_or_is_told_when_to_ask_again(tmp_path: Path) -> None:
    with OpenAIServer() as upstream:
        upstream.default = Reply(stall="first_token", seconds=0.3)
        settings = {
            "LLM_PROVIDER": "openai",
            "LLM_FALLBACK": "none",
            "OPENAI_API_KEY": "sk-crowd",
            "OPENAI_BASE_URL": upstream.url,
            "NO_ANSWER": "model",
            "MAX_CONCURRENT_REQUESTS": str(PLACES),
            "MAX_QUEUED_REQUESTS": str(QUEUE),
        }
        with backend(tmp_path, **settings) as running:
            process = psutil.Process(running.process.pid)
            await crowd(running.url)  # what is loaded and pooled once
            before = process.memory_info().rss
            for _ in range(3):
                told = await crowd(running.url)
                statuses = Counter(status for status, _ in told)
                assert statuses.keys() == {200, 429}, statuses
                assert statuses[200] >= PLACES + QUEUE
                assert all(after and int(after) >= 1 for status, after in told if status == 429)
            grown = process.memory_info().rss - before
            assert grown < 64 * 2**20, f"{grown / 2**20:.0f} MiB more"
            async with aiohttp.ClientSession() as session:
                body = {"messages": [{"role": "user", "content": "And now?"}]}
                url = f"{running.url}/v1/chat/completions"
                async with session.post(url, json=body) as answer:
                    assert answer.status == 200, "every place was given back"
