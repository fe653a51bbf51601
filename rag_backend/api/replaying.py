"""What was read of a request before its turn came, read again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from starlette.types import Message, Receive


def replayed(came: Iterable[Message], receive: Receive) -> Receive:
    """A receiver of these messages, each let go of as it is given, and then of those to come."""
    waiting = deque(came)

    async def again() -> Message:
        return waiting.popleft() if waiting else await receive()

    return again
