"""Models and a loader that a test moves by hand."""

from __future__ import annotations

import asyncio
import queue
import threading
import weakref
from collections.abc import AsyncIterator
from collections.abc import Sequence as Items
from contextlib import asynccontextmanager
from typing import Any

import httpx

from llm_offline.app import Parts, create_app
from llm_offline.engine.interface import Sampling
from llm_offline.engine.sequence import Drawn
from llm_offline.engine.step import Row
from llm_offline.errors import StartError
from llm_offline.fitting import Need
from llm_offline.loaded import LoadedModel
from llm_offline.progress import Progress
from llm_offline.settings import Settings

END = 0
MIB = 2**20


class Network:
    """Says what `say` gave it, a character a step."""

    stop_ids = frozenset({END})
    block_size, blocks, step_tokens, vocabulary = 16, 64, 100, 256
    difference = 0.0

    def __init__(self) -> None:
        self.steps: queue.Queue[int] = queue.Queue()

    def say(self, text: str) -> None:
        for character in text:
            self.steps.put(ord(character))
        self.steps.put(END)

    def step(self, rows: Items[Row]) -> list[Drawn]:
        token = self.steps.get(timeout=30)
        return [Drawn([token] * row.samples) for row in rows]

    def memory(self) -> dict[str, int]:
        return {"used_bytes": 1, "free_bytes": 1, "total_bytes": 2}


class Text:
    """A character a token."""

    def encode_chat(self, messages: Any, tools: Any = ()) -> list[int]:
        return self.encode("".join(message["content"] for message in messages))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(character) % 256 for character in text]

    def token_text(self, token: int) -> str:
        return chr(token)

    def decode(self, tokens: Items[int]) -> str:
        return "".join(map(chr, tokens))


class PuppetLoader:
    """Every model weighs 100 MiB; each load waits for `gates[name]`, if there is one.

    Attributes:
        free: Bytes that are free when nothing is loaded.
        networks: Of all models that were loaded and still are in memory, by name.
        broken: Name → why it does not load.
    """

    def __init__(self, free: int = 1000 * MIB) -> None:
        self.free = free
        self.networks: weakref.WeakValueDictionary[str, Network] = weakref.WeakValueDictionary()
        self.gates: dict[str, threading.Event] = {}
        self.broken: dict[str, str] = {}
        self.loads: list[str] = []

    def weigh(self, settings: Settings, progress: Progress) -> Need:
        if settings.model == "unknown":
            raise StartError("--model unknown: there is no such folder")
        taken = 100 * MIB * len(self.networks)
        return Need(
            weights=100 * MIB,
            kv_token=1024,
            context=1024,
            kv_wanted=MIB,
            kv_share=0.5,
            free=self.free - taken,
            device="cpu",
        )

    def load(self, settings: Settings, progress: Progress) -> LoadedModel:
        name = settings.model
        self.loads.append(name)
        progress.enter("reading the weights", total=10)
        network = Network()
        gate = self.gates.get(name)
        if gate is not None:
            assert gate.wait(30)
        if name in self.broken:
            raise StartError(self.broken[name])
        self.networks[name] = network
        return LoadedModel(
            network=network,
            text=Text(),
            grammars=None,  # type: ignore[arg-type]
            context=1024,
            defaults=Sampling(),
            device="cpu",
            dtype="fp32",
            weights_bytes=100 * MIB,
            kv_bytes=MIB,
            kv_tokens=1024,
        )

    def give_back(self) -> None:
        """The memory of puppets is not worth it; what refers to them must be gone."""


@asynccontextmanager
async def served(loader: PuppetLoader) -> AsyncIterator[tuple[httpx.AsyncClient, Parts]]:
    """A server in this process, once its first model, "old", is there, and a client of it."""
    settings = Settings(_env_file=None, model="old")  # type: ignore[call-arg]
    app, parts = create_app(settings, loader)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client,
        asyncio.timeout(60),
    ):
        while parts.serving.here is None or parts.serving.coming:
            await asyncio.sleep(0.005)
        yield client, parts
