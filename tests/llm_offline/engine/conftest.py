"""Engines with a model that the test steps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from llm_offline.engine.continuous import ContinuousBatching
from tests.llm_offline.engine.stepped import END, Puppet, decode


@pytest.fixture
def puppet() -> Puppet:
    return Puppet()


@asynccontextmanager
async def _running(puppet: Puppet, queue: int, batch: int) -> AsyncIterator[ContinuousBatching]:
    engine = ContinuousBatching(
        puppet, decode, context=100, max_queue=queue, max_batch=batch, guesser=None
    )
    yield engine
    engine.stop()
    puppet.steps.put(END)
    assert engine.join(10)


@pytest.fixture
async def engine(puppet: Puppet) -> AsyncIterator[ContinuousBatching]:
    async with _running(puppet, queue=1, batch=1) as engine:
        yield engine


@pytest.fixture
async def batching(puppet: Puppet) -> AsyncIterator[ContinuousBatching]:
    """Up to three at once."""
    async with _running(puppet, queue=0, batch=3) as engine:
        yield engine
