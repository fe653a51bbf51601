"""A backend on a real socket, in a thread of the test's own process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from openai import OpenAI

from rag_backend.api.parts import Parts
from rag_backend.app import create_app
from rag_backend.listening import bind
from rag_backend.settings import Settings

PATIENCE = 120
"""Seconds after which a condition that did not come true fails the test."""

HANDBOOK = """# Handbook

## Annual leave

Employees have twelve days of annual leave. After five years they get two more days.

## Lunch

The lunch allowance is 45,000 VND for each day on site.

## Nghỉ phép

Nhân viên chính thức được nghỉ phép mười hai ngày mỗi năm. Ngày phép còn lại chuyển sang quý một.
"""
OFFICES = "City,Street,Manager\nHanoi,Ly Thuong Kiet 12,Tran Minh\nHue,Le Loi 7,Nguyen Hoa\n"
FAQ = "Câu hỏi,Đáp án\nMật khẩu wifi khách là gì?,Hỏi lễ tân ở tầng một.\n"


@dataclass
class Running:
    """A backend that answers."""

    url: str
    app: FastAPI
    parts: Parts

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, **options)

    def sdk(self, api_key: str = "none") -> OpenAI:
        """The real SDK, its own retries off: what is seen is what was answered."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=PATIENCE)


@contextmanager
def serving(settings: Settings) -> Iterator[Running]:
    """Build the application, serve it, wait for its encoder; stop it at the end."""
    built: list[Parts] = []
    ready = threading.Event()

    def started(parts: Parts) -> None:
        built.append(parts)
        tasks.append(asyncio.create_task(_announce(parts, ready)))

    tasks: list[asyncio.Task[None]] = []
    if "cache_url" not in settings.model_fields_set:
        # Tests ask the same things again and again, and count who was asked.
        settings = settings.model_copy(update={"cache_url": "none"})
    app = create_app(settings, started)
    listener = bind("127.0.0.1", 0)
    config = uvicorn.Config(
        app, log_config=None, timeout_graceful_shutdown=2, server_header=False, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert ready.wait(PATIENCE), "the encoder was not loaded"
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", app, built[0])
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listener.close()


async def _announce(parts: Parts, ready: threading.Event) -> None:
    await parts.encoder.wait()
    ready.set()


def fill(backend: Running, documents: dict[str, str], store: str = "default") -> dict[str, str]:
    """Put documents into a store; their ids by name."""
    ids = {}
    with backend.sdk() as client:
        for name, text in documents.items():
            file = client.files.create(file=(name, text.encode()), purpose="assistants")
            done = client.vector_stores.files.create_and_poll(
                file_id=file.id, vector_store_id=store, poll_interval_ms=50
            )
            assert done.status == "completed", done.last_error
            ids[name] = file.id
    return ids
