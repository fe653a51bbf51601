"""How full the memory is, for those who may not wait: a driver's call can take as long as it likes.

CUDA's waits while a graph is recorded, and for ever on a device that hangs; on the event loop it
would stop every stream, and `/health` with them.
"""

from __future__ import annotations

import asyncio
import logging

from llm_offline.loaded import Network
from llm_offline.threads import Threads

log = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds after which a look is given up."""


class Gauge:
    """Looks in a thread, one look at a time."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._look: asyncio.Task[dict[str, int]] | None = None

    async def read(self, network: Network, seconds: float = PATIENCE) -> dict[str, int]:
        """See `Network.memory`; empty where the device does not tell within `seconds`."""
        if self._look is None or self._look.done():
            look = self._threads.run("looking at the memory", network.memory)
            self._look = asyncio.create_task(look)
            self._look.add_done_callback(_take)
        try:
            return await asyncio.wait_for(asyncio.shield(self._look), seconds)
        except TimeoutError:
            return {}
        except RuntimeError as error:  # the device is lost
            log.debug("the device tells nothing of its memory: %s", error)
            return {}


def _take(look: asyncio.Task[dict[str, int]]) -> None:
    """Take a failure for which nobody waits any more, so that asyncio does not report it."""
    if not look.cancelled():
        look.exception()
