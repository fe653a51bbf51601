"""Engines with a model that the test steps."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from llm_offline.engine.continuous import ContinuousBatching
from tests.llm_offline.engine.stepped import END, Puppet, decode


@pytest.fixture
def puppet() -> Puppet:
    return Puppet()


@pytest.fixture
async def engine(puppet: Puppet) -> AsyncIterator[ContinuousBatching]:
    engine = ContinuousBatching(puppet, decode, context=100, max_queue=1, max_batch=1, guesser=None)
    yield engine
    engine.stop()
    puppet.steps.put(END)
    assert engine.join(10)


@pytest.fixture
async def batching(puppet: Puppet) -> AsyncIterator[ContinuousBatching]:
    """Up to three at once."""
    engine = ContinuousBatching(puppet, decode, context=100, max_queue=0, max_batch=3, guesser=None)
    yield engine
    engine.stop()
    puppet.steps.put(END)
    assert engine.join(10)
