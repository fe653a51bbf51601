"""Looks after a host that is left alone, so that no request has to find out for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rag_backend.llm.breaker import Circuit

Look = Callable[[float], Awaitable[bool]]
"""Whether the host answers within so many seconds. Costs nothing; never raises."""

LONGEST_LOOK = 3.0


class Watch:
    """Looks once an interval while a circuit is not closed.

    The first sign of life makes it half-open; as long as there is none it stays open. Each look
    is over when the interval is, so a host that comes back is tried within one.
    """

    def __init__(
        self,
        circuit: Circuit,
        look: Look,
        interval: float,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`interval` in seconds: the one that the circuit has."""
        self._circuit = circuit
        self._look = look
        self._limit = min(LONGEST_LOOK, interval / 2)
        self._rest = interval - self._limit
        self._pause = pause
        self._task: asyncio.Task[None] | None = None
        circuit.opened = self._begin

    async def aclose(self) -> None:
        """Look no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="host watch")

    async def _run(self) -> None:
        while self._circuit.state != "closed":
            await self._pause(self._rest)
            if await self._look(self._limit):
                self._circuit.try_now()
                return
            self._circuit.hold()
