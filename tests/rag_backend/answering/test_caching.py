"""The cache around the pipeline: who shares what with whom, and what is never kept."""

from __future__ import annotations

import asyncio
import contextlib
import unicodedata
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rag_backend.answering.caching import Answers, Freshness, Served, Wanted
from rag_backend.answering.pipeline import Question
from rag_backend.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
)
from rag_backend.knowledge.models import Store
from rag_backend.llm.cache.memory import MemoryBacking
from rag_backend.llm.complete import fold
from rag_backend.llm.notes import Route
from rag_backend.llm.prices import FREE, Price
from rag_backend.llm.pricing import Money
from rag_backend.llm.provider import Chunk
from rag_backend.metrics import Metrics
from rag_backend.settings import Settings
from tests.rag_backend.answering.fakes import STORE, Scripted, user

ASK = user("How many days?")
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
COUNTED = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}
HEAD = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}


def said(text: str) -> Chunk:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


class FakePipeline:
    """Each question plays the next script, the last one again and again; `gate` holds them up."""

    def __init__(self, *scripts: list[Chunk | Exception]) -> None:
        self._scripts = scripts or ([said("Twelve."), END, COUNTED],)
        self.asked: list[Question] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.provider: str | None = None  # who signs; None: who was asked
        self.route: Route | None = None
        self.open = 0

    async def answer(self, asked: Question) -> AsyncGenerator[Chunk, None]:
        script = self._scripts[min(len(self.asked), len(self._scripts) - 1)]
        self.asked.append(asked)
        asked.note.route, asked.note.spared = self.route, 100
        self.open += 1
        try:
            for step in script:
                await self.gate.wait()
                if isinstance(step, Exception):
                    raise step
                yield HEAD | {"provider": self.provider or asked.provider.name} | step
        finally:
            self.open -= 1


class FakeRegistry:
    """Two rows; models as they are known."""

    def __init__(self) -> None:
        self.models: dict[str, str | None] = {"local": "tiny", "openai": "gpt"}

    def has(self, name: str) -> bool:
        return name in self.models

    def names(self) -> list[str]:
        return [*self.models, "extractive"]

    def identity(self, name: str) -> tuple[str, str | None]:
        return name, self.models.get(name)

    def choices(self, name: str) -> list[str]:
        return list(self.models) if name == "smart" else [name]


class FakeLibrary:
    """One store, which is complete or not; who used it."""

    def __init__(self) -> None:
        self.complete = True
        self.used = 0
        self.searches_by_words = 0

    def is_complete(self, _store: Store) -> bool:
        return self.complete

    def use(self, _store: Store) -> None:
        self.used += 1


class House:
    """Answers and everything that they were given."""

    def __init__(self, *scripts: list[Chunk | Exception], **settings: Any) -> None:
        self.pipeline, self.registry = FakePipeline(*scripts), FakeRegistry()
        self.metrics = Metrics()
        self.backing = MemoryBacking(self.metrics, ttl=60, max_bytes=2**20, max_entries=100)
        self.library, self.reranking = FakeLibrary(), SimpleNamespace(ready=False)
        self.answers = Answers(
            cast(Any, self.pipeline),
            cast(Any, self.library),
            self.backing,
            cast(Any, self.registry),
            cast(Any, self.reranking),
            Settings(_env_file=None, **settings),
            self.metrics,
        )

    def question(self, provider: str = "local", store: Store = STORE, **options: Any) -> Question:
        return Question((ASK,), options, Scripted(name=provider), None, store, "http://here")

    async def ask(
        self,
        asked: Question | None = None,
        asker: str = "",
        freshness: Freshness = "any",
        *,
        live: bool = True,
    ) -> tuple[str, str]:
        """(how it was served, the text)."""
        asked = asked or self.question()
        wanted, served = Wanted.of(asked, asker), Served()
        if freshness == "any":
            found = await self.answers.recorded(wanted, asked.provider.name, asked.store)
            if found is not None:
                return "hit", text(await fold(found.replay()))
        chunks = self.answers.answer(asked, wanted, freshness, served, live=live)
        return await _told(served, chunks)

    async def departed(self, count: int = 1) -> None:
        async with asyncio.timeout(60):
            while len(self.pipeline.asked) < count:
                await asyncio.sleep(0)


async def _told(served: Served, chunks: AsyncGenerator[Chunk, None]) -> tuple[str, str]:
    answer = await fold(chunks)
    return served.outcome, text(answer)


def text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


async def outcomes(house: House, *asked: Question) -> list[str]:
    return [(await house.ask(one))[0] for one in asked]


async def test_asked_again() -> None:
    house = House()
    assert await house.ask() == ("miss", "Twelve.")
    assert await house.ask() == ("hit", "Twelve.")
    assert len(house.pipeline.asked) == 1
    shown = house.metrics.exposition().decode()
    assert 'rag_cache_saved_tokens_total{direction="in",provider="local"} 5.0' in shown
    assert 'rag_cache_requests_total{outcome="hit"} 1.0' in shown


async def test_whatever_changes_the_answer_is_another_question() -> None:
    house = House()
    base = house.question()
    others = [
        base,
        house.question(temperature=0.5),
        house.question(seed=1),
        house.question("openai"),
        replace(base, base_url="http://there"),
        replace(base, messages=(ASK, ASK)),
        replace(base, messages=(user("How many days? "),)),
        replace(base, store=replace(STORE, revision=2)),
        replace(base, store=replace(STORE, id="vs-2")),
        replace(base, store=replace(STORE, generation=2)),
    ]
    assert await outcomes(house, *others) == ["miss"] * len(others)
    assert await outcomes(house, *others) == ["hit"] * len(others)


async def test_whatever_does_not_is_the_same() -> None:
    house = House()
    composed, decomposed = user("Nghỉ phép?"), user(unicodedata.normalize("NFD", "Nghỉ phép?"))
    first = replace(house.question(top_k=1, temperature=0.5), messages=(composed,))
    second = replace(house.question(temperature=0.5, top_k=1, user="me"), messages=(decomposed,))
    named = replace(second, store=replace(STORE, name="renamed"))
    assert await outcomes(house, first, second, named) == ["miss", "hit", "hit"]


async def test_keys_share_nothing() -> None:
    house = House()
    assert [(await house.ask(asker=key))[0] for key in ("a", "b", "a")] == ["miss", "miss", "hit"]


async def test_settings_and_models_are_part_of_it() -> None:
    house, other = House(), House(context_tokens=900)
    wanted = Wanted.of(house.question(), "")
    assert house.answers._key(wanted, "local", STORE) != other.answers._key(wanted, "local", STORE)
    same = House(port=40_000, api_keys=("k",), cache_ttl=5, embedding_api_key="k")
    assert house.answers._key(wanted, "local", STORE) == same.answers._key(wanted, "local", STORE)
    for elsewhere in ({"embedding_url": "http://a:1"}, {"reranker_model": "some/model"}):
        moved = House(**elsewhere).answers
        assert moved._key(wanted, "local", STORE) != same.answers._key(wanted, "local", STORE)
    await house.ask()
    house.registry.models["local"] = "another"
    assert (await house.ask())[0] == "miss"


async def test_a_model_that_is_looked_up_meanwhile() -> None:
    house = House()
    house.registry.models["local"] = None
    house.pipeline.gate.clear()
    asking = asyncio.create_task(house.ask())
    await house.departed()
    house.registry.models["local"] = "tiny"
    later = asyncio.create_task(house.ask())
    await asyncio.sleep(0)
    house.pipeline.gate.set()
    assert (await asking)[0] == "miss"
    assert (await later)[0] == "shared"
    assert (await house.ask())[0] == "hit"
    assert len(house.pipeline.asked) == 1


async def test_a_model_that_is_swapped_meanwhile() -> None:
    house = House()
    house.pipeline.gate.clear()
    asking = asyncio.create_task(house.ask())
    await house.departed()
    house.registry.models["local"] = "another"
    later = asyncio.create_task(house.ask())
    await house.departed(2)
    house.pipeline.gate.set()
    assert [(await one)[0] for one in (asking, later)] == ["miss", "miss"]
    assert await outcomes(house, house.question()) == ["hit"]


async def test_a_reranker_that_is_loaded_meanwhile() -> None:
    house = House()
    house.pipeline.gate.clear()
    asking = asyncio.create_task(house.ask())
    await house.departed()
    house.reranking.ready = True
    house.pipeline.gate.set()
    await asking
    assert await outcomes(house, house.question(), house.question()) == ["miss", "hit"]


async def test_what_came_from_an_incomplete_store_is_not_kept() -> None:
    house = House()
    house.library.complete = False
    assert await outcomes(house, house.question()) == ["miss"]
    house.library.complete = True
    assert await outcomes(house, house.question(), house.question()) == ["miss", "hit"]
    assert house.library.used == 1


async def test_what_was_found_without_the_encoder_is_not_kept() -> None:
    house = House()
    house.pipeline.gate.clear()
    asking = asyncio.create_task(house.ask())
    async with asyncio.timeout(30):
        while not house.pipeline.asked:
            await asyncio.sleep(0)
    house.library.searches_by_words += 1
    house.pipeline.gate.set()
    assert (await asking)[0] == "miss"
    assert await outcomes(house, house.question(), house.question()) == ["miss", "hit"]


async def test_fresh_is_asked_for_and_kept() -> None:
    house = House([said("Old."), END, COUNTED], [said("New."), END, COUNTED])
    assert await house.ask() == ("miss", "Old.")
    assert await house.ask(freshness="fresh") == ("bypass", "New.")
    assert await house.ask() == ("hit", "New.")


async def test_private_is_neither_looked_up_nor_kept() -> None:
    house = House()
    assert (await house.ask(freshness="private"))[0] == "bypass"
    assert (await house.ask())[0] == "miss"
    assert (await house.ask(freshness="private"))[0] == "bypass"
    assert len(house.pipeline.asked) == 3


UNFIT: dict[str, list[Chunk | Exception]] = {
    "cut": [said("Twel"), UpstreamBroken("cut")],
    "failed": [UpstreamUnavailable("away")],
    "filtered": [
        said("T"),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]},
        COUNTED,
    ],
    "empty": [END, COUNTED],
}


@pytest.mark.parametrize("which", UNFIT)
async def test_only_whole_answers_are_kept(which: str) -> None:
    house = House(UNFIT[which])
    for _ in range(2):
        with contextlib.suppress(UpstreamError):
            assert (await house.ask())[0] == "miss"
    assert len(house.pipeline.asked) == 2
    assert await house.backing.clear() == 0
    assert house.pipeline.open == 0


async def test_a_stand_ins_answer_is_not_kept() -> None:
    house = House()
    house.pipeline.provider = "extractive"
    assert await outcomes(house, house.question(), house.question()) == ["miss", "miss"]
    house.pipeline.provider = "documents"
    assert await outcomes(house, house.question(), house.question()) == ["miss", "hit"]


@pytest.mark.parametrize("chosen", ["local", "openai"])
async def test_whom_the_router_chose_may_sign(chosen: str) -> None:
    house = House()
    house.pipeline.route = Route(chosen, "score", ("short",), 0.2, 0.5)
    smart, house.pipeline.provider = house.question("smart"), chosen
    assert await outcomes(house, smart, smart) == ["miss", "hit"]
    kept = await house.answers.recorded(Wanted.of(smart, ""), "smart", STORE)
    assert kept is not None
    assert (kept.route, kept.spared) == (house.pipeline.route.header(), 100)
    for stand_in in {"local", "openai", "extractive"} - {chosen}:
        house.pipeline.provider = stand_in
        smart = house.question("smart", seed=len(stand_in))
        assert await outcomes(house, smart, smart) == ["miss", "miss"]


async def test_a_model_looked_up_for_the_very_answer_is_no_other_model() -> None:
    house = House()
    house.pipeline.route = Route("local", "score", ("short",), 0.2, 0.5)
    house.pipeline.provider, house.registry.models["local"] = "local", None
    house.pipeline.gate.clear()
    asking = asyncio.create_task(house.ask(house.question("smart")))
    while not house.pipeline.asked:
        await asyncio.sleep(0)
    house.registry.models["local"] = "tiny"
    house.pipeline.gate.set()
    assert (await asking)[0] == "miss"
    assert (await house.ask(house.question("smart")))[0] == "hit"


async def test_those_who_share_an_answer_are_told_its_route() -> None:
    house = House()
    house.pipeline.route = Route("local", "score", ("short",), 0.2, 0.5)
    house.pipeline.gate.clear()
    served = [Served(), Served()]
    asking = [
        asyncio.create_task(
            _told(
                one,
                house.answers.answer(
                    house.question("smart"), Wanted.of(house.question("smart"), ""), "any", one
                ),
            )
        )
        for one in served
    ]
    while not house.pipeline.asked:
        await asyncio.sleep(0)
    house.pipeline.gate.set()
    await asyncio.gather(*asking)
    assert [one.note.route for one in served] == [house.pipeline.route] * 2
    assert len(house.pipeline.asked) == 1


async def test_what_is_given_again_is_money_saved() -> None:
    prices = {"openai": Price(1, 10, 1), "local": FREE}
    house = House()
    money = Money(lambda name, _: prices.get(name), "openai", house.metrics)
    house.answers._money = money
    assert await outcomes(house, house.question("openai"), house.question("openai")) == [
        "miss",
        "hit",
    ]
    saved = 'rag_saved_usd_total{baseline="openai",by="caching"}'
    # 5 of the prompt, 100 that condensing had spared, 2 of the answer
    assert f"{saved} 0.000125" in house.metrics.exposition().decode()


async def test_identical_questions_at_once_are_asked_once() -> None:
    house = House()
    house.pipeline.gate.clear()
    asking = [asyncio.create_task(house.ask(live=n % 2 == 0)) for n in range(20)]
    await house.departed()
    house.pipeline.gate.set()
    served = await asyncio.gather(*asking)
    assert sorted(served) == [("miss", "Twelve.")] + [("shared", "Twelve.")] * 19
    assert len(house.pipeline.asked) == 1
    assert not house.answers._flights


async def test_a_follower_sees_the_chunks_as_they_come() -> None:
    house = House([said("Twelve "), said("days."), END, COUNTED])
    asked, served = house.question(), Served()
    streams = [house.answers.answer(asked, Wanted.of(asked, ""), "any", served) for _ in range(2)]
    assert (await anext(streams[0]))["choices"][0]["delta"] == {"content": "Twelve "}
    house.pipeline.gate.clear()
    assert (await anext(streams[1]))["choices"][0]["delta"] == {"content": "Twelve "}
    house.pipeline.gate.set()
    for stream in streams:
        assert len([chunk async for chunk in stream]) == 3


async def test_a_leader_that_leaves_takes_nobody_along() -> None:
    house = House()
    house.pipeline.gate.clear()
    leader = asyncio.create_task(house.ask())
    await house.departed()
    follower = asyncio.create_task(house.ask())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leader.cancel()
    await asyncio.gather(leader, return_exceptions=True)
    house.pipeline.gate.set()
    assert await follower == ("shared", "Twelve.")
    assert (await house.ask())[0] == "hit"


async def test_the_last_one_to_leave_frees_the_upstream() -> None:
    house = House()
    house.pipeline.gate.clear()
    asking = [asyncio.create_task(house.ask()) for _ in range(3)]
    await house.departed()
    for one in asking:
        one.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    async with asyncio.timeout(60):
        while house.pipeline.open:
            await asyncio.sleep(0)
    house.pipeline.gate.set()
    assert (await house.ask())[0] == "miss"


@pytest.mark.parametrize("live", [True, False])
async def test_followers_of_a_failed_leader_try_themselves(live: bool) -> None:
    house = House([UpstreamUnavailable("away")], [said("Twelve."), END, COUNTED])
    house.pipeline.gate.clear()
    asking = [asyncio.create_task(house.ask(live=live)) for _ in range(10)]
    await house.departed()
    house.pipeline.gate.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    failed = [r for r in results if isinstance(r, UpstreamUnavailable)]
    assert len(failed) == 1
    assert [r[1] for r in results if isinstance(r, tuple)] == ["Twelve."] * 9
    assert len(house.pipeline.asked) == 2


async def test_plain_followers_try_again_even_after_a_first_word() -> None:
    house = House(UNFIT["cut"], [said("Twelve."), END, COUNTED])
    house.pipeline.gate.clear()
    asking = [asyncio.create_task(house.ask(live=False)) for _ in range(3)]
    await house.departed()
    house.pipeline.gate.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [r[1] for r in results if isinstance(r, tuple)] == ["Twelve."] * 2


async def test_tries_are_bounded() -> None:
    house = House([UpstreamUnavailable("away")])
    house.pipeline.gate.clear()
    asking = [asyncio.create_task(house.ask()) for _ in range(10)]
    await house.departed()
    house.pipeline.gate.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(r, UpstreamUnavailable) for r in results)
    assert len(house.pipeline.asked) == 2
    assert not house.answers._flights


async def test_a_refusal_is_everybodys() -> None:
    house = House([UpstreamRefused("too long", status=400)])
    house.pipeline.gate.clear()
    asking = [asyncio.create_task(house.ask()) for _ in range(5)]
    await house.departed()
    house.pipeline.gate.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(r, UpstreamRefused) for r in results)
    assert len(house.pipeline.asked) == 1


async def test_cleared_while_an_answer_is_on_its_way() -> None:
    house = House()
    house.pipeline.gate.clear()
    asking = asyncio.create_task(house.ask())
    await house.departed()
    assert await house.answers.clear() == 0
    house.pipeline.gate.set()
    assert await asking == ("miss", "Twelve.")
    assert (await house.ask())[0] == "miss"
    assert await house.answers.clear() == 1


async def test_switched_off() -> None:
    house = House()
    house.answers._backing = None
    assert not house.answers.caching
    assert await outcomes(house, house.question(), house.question()) == ["bypass", "bypass"]
    assert await house.answers.clear() == 0


async def test_closing_gives_up_what_is_on_its_way() -> None:
    house = House()
    house.pipeline.gate.clear()
    asked = house.question()
    stream = house.answers.answer(asked, Wanted.of(asked, ""), "any", Served())
    async with aclosing(stream):
        reading = asyncio.ensure_future(anext(stream))
        await house.departed()
        await house.answers.aclose()
        with pytest.raises(asyncio.CancelledError):
            await reading
