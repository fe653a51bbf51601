"""From bytes in any portions to events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import httpx2
import pytest
from openai import APIStatusError

from rag_backend.llm.events import Events, post

STREAM = b': hello\n\nid: 7\ndata: {"n": 1}\n\nevent: x\ndata:{"n":\ndata: 2}\n\ndata: [DONE]\n\n'


class Portions(httpx2.AsyncByteStream):
    """A body in these portions; knows whether it was read to its end, and closed."""

    def __init__(self, portions: Sequence[bytes]) -> None:
        self._portions = portions
        self.ended = self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for portion in self._portions:
            yield portion
        self.ended = True

    async def aclose(self) -> None:
        self.closed = True


async def _read(*portions: bytes) -> list[object]:
    body, found = Portions(portions), []
    async with Events(httpx2.Response(200, stream=body)) as events:
        while (event := await events.next()) is not None:
            found.append(event)
    assert body.closed
    return found


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
async def test_any_portions_and_line_ends(end: bytes) -> None:
    stream = STREAM.replace(b"\n", end)
    for size in (1, 2, 3, 7, len(stream)):
        portions = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert await _read(*portions) == [{"n": 1}, {"n": 2}]


async def test_a_letter_in_two_portions() -> None:
    stream = 'data: {"text": "Điều"}\n\n'.encode()
    assert await _read(stream[:16], stream[16:]) == [{"text": "Điều"}]


async def test_an_event_without_its_blank_line_is_none() -> None:
    assert await _read(b'data: {"n": 1}\n\ndata: {"n": 2}\n') == [{"n": 1}]


async def test_garbage() -> None:
    with pytest.raises(ValueError):
        await _read(b'data: {"n": \n\n')


async def test_the_end_is_read_so_that_the_connection_serves_again() -> None:
    body = Portions([b"data: [DONE]\n\n", b": more", b"\n\n"])
    async with Events(httpx2.Response(200, stream=body)) as events:
        assert await events.next() is None
        assert body.ended


async def test_a_refusal_is_read_and_closed() -> None:
    body = Portions([b'{"error": {"message": "No.", "code": "nope"}}'])
    transport = httpx2.MockTransport(lambda _: httpx2.Response(422, stream=body))
    async with httpx2.AsyncClient(transport=transport) as client:
        with pytest.raises(APIStatusError) as refused:
            await post(client, "http://model/v1/chat/completions", {"seed": 2**70}, {})
    assert refused.value.code == "nope"
    assert body.closed
