"""Places and the queue for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from rag_backend.api.admitting import Admitting, Places
from rag_backend.errors import Busy

CHAT = "/v1/chat/completions"


class Client:
    """One request, as a server hands it over."""

    def __init__(self, number: int, path: str = CHAT, body: bytes = b"{}") -> None:
        self.number = number
        self.scope = {"type": "http", "method": "POST", "path": path, "number": number}
        self.sent: list[Any] = []
        self._coming: asyncio.Queue[Any] = asyncio.Queue()
        self._coming.put_nowait({"type": "http.request", "body": body, "more_body": False})

    def hang_up(self) -> None:
        self._coming.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Any:
        return await self._coming.get()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


class House:
    """An application that answers when it is told to."""

    def __init__(self, places: int, queue: int) -> None:
        self.places, self.uploads = Places(places, queue), Places(1, 0)
        self.serve = Admitting(self._app, self.places, self.uploads)
        self.begun: list[int] = []
        self.bodies: list[bytes] = []
        self.release: dict[int, asyncio.Event] = {}

    async def _app(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        self.begun.append(scope["number"])
        self.bodies.append((await receive())["body"])
        await self.release.setdefault(scope["number"], asyncio.Event()).wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def ask(self, client: Client) -> asyncio.Task[None]:
        return asyncio.ensure_future(self.serve(client.scope, client.receive, client.send))

    def answer(self, number: int) -> None:
        self.release.setdefault(number, asyncio.Event()).set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def test_first_come_first_served_and_no_more_than_there_are_places() -> None:
    house = House(2, 3)
    clients = [Client(number, body=b"%d" % number) for number in range(5)]
    tasks = [house.ask(client) for client in clients]
    await until(lambda: house.places.waiting == 3 and len(house.begun) == 2)
    for number in range(5):
        assert house.places.running == 2 if number < 4 else 1
        house.answer(number)
        await tasks[number]
    assert house.begun == [0, 1, 2, 3, 4]
    assert house.bodies == [b"0", b"1", b"2", b"3", b"4"], "what came while they waited is kept"
    assert (house.places.running, house.places.waiting, house.places.refused) == (0, 0, 0)


async def test_past_the_queue() -> None:
    house = House(1, 1)
    tasks = [house.ask(Client(number)) for number in range(2)]
    await until(lambda: house.places.waiting == 1)
    late = Client(2)
    await house.ask(late)
    assert late.status == 429
    headers = {name.decode(): value.decode() for name, value in late.sent[0]["headers"]}
    assert 1 <= int(headers["retry-after"]) <= 60
    error = json.loads(late.sent[1]["body"])["error"]
    assert error["code"] == "server_busy"
    assert house.places.refused == 1
    other = Client(3, path="/v1/models")
    house.answer(3)
    await house.ask(other)
    assert other.status == 200, "what costs little never waits"
    upload = Client(4, path="/v1/files")
    house.answer(4)
    await house.ask(upload)
    assert upload.status == 200, "nor do uploads, for those who ask"
    for number in range(2):
        house.answer(number)
    await asyncio.gather(*tasks)
    assert house.places.running == 0


async def test_who_leaves_the_queue_leaves_it_at_once() -> None:
    house = House(1, 2)
    first, second, third = (Client(number) for number in range(3))
    tasks = [house.ask(client) for client in (first, second, third)]
    await until(lambda: house.places.waiting == 2)
    second.hang_up()
    with pytest.raises(ClientDisconnect):
        await tasks[1]
    assert (house.places.running, house.places.waiting) == (1, 1)
    house.answer(0)
    house.answer(2)
    await asyncio.gather(tasks[0], tasks[2])
    assert house.begun == [0, 2]
    assert house.places.running == 0


async def test_a_place_that_comes_as_its_client_leaves_goes_on() -> None:
    house = House(1, 2)
    first, second, third = (Client(number) for number in range(3))
    tasks = [house.ask(client) for client in (first, second, third)]
    await until(lambda: house.places.waiting == 2)
    house.answer(0)  # it is the second one's turn ...
    second.hang_up()  # ... in the same round of the loop
    house.answer(1)
    house.answer(2)
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert third.status == 200
    assert (house.places.running, house.places.waiting) == (0, 0)


def test_a_turn_that_nobody_takes_is_the_next_ones() -> None:
    async def check() -> None:
        places = Places(1, 2)
        assert places.take() is None
        turns = [places.take(), places.take()]
        places.give_back(1.0)
        assert [turn.done() for turn in turns if turn] == [True, False]
        assert turns[0] is not None
        places.leave(turns[0])
        assert [turn.done() for turn in turns if turn] == [True, True]
        assert places.running == 1

    asyncio.run(check())


async def test_cancelled_while_waiting() -> None:
    house = House(1, 1)
    tasks = [house.ask(Client(number)) for number in range(2)]
    await until(lambda: house.places.waiting == 1)
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    house.answer(0)
    await tasks[0]
    assert (house.places.running, house.places.waiting) == (0, 0)


async def test_a_large_body_waits_outside() -> None:
    """Little of it is held: the rest stays with the client until there is a place."""
    house = House(1, 1)
    first = house.ask(Client(0))
    await until(lambda: house.places.running == 1)
    large, taken = Client(1), 0

    async def receive() -> Any:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b"x" * 65536, "more_body": taken < 100}

    waiting = asyncio.ensure_future(house.serve(large.scope, receive, large.send))
    await until(lambda: taken >= 4)
    for _ in range(100):
        await asyncio.sleep(0)
    assert taken == 4
    house.answer(0)
    house.answer(1)
    await asyncio.gather(first, waiting)
    assert large.status == 200


def test_the_wait_is_estimated_from_what_was() -> None:
    places = Places(1, 0)
    for _ in range(100):
        assert places.take() is None
        places.give_back(12.0)
    assert places.take() is None
    with pytest.raises(Busy) as caught:
        places.take()
    assert 11 <= caught.value.retry_after <= 12
