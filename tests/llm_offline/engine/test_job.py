"""News from a thread to event loops."""

from __future__ import annotations

import asyncio

from llm_offline.engine.interface import GenerationRequest, TextDelta
from llm_offline.engine.job import Job, Mark, Outbox


def _job(loop: asyncio.AbstractEventLoop) -> Job:
    return Job(GenerationRequest((5,)), 9, lambda job, how: None, loop)


async def test_news_come_together_and_in_order() -> None:
    """The event loop is woken once, however many there are."""
    loop = asyncio.get_running_loop()
    outbox, jobs = Outbox(), [_job(loop) for _ in range(3)]

    def work() -> None:
        for job in jobs:
            outbox.post(job, Mark.STARTED)
        for job in jobs:
            outbox.post(job, TextDelta("a", 1))
            outbox.post(job, TextDelta("b", 2, "stop"))
            outbox.post(job, Mark.LEFT)

    await asyncio.to_thread(work)
    assert [job.state for job in jobs] == ["waiting"] * 3
    await asyncio.to_thread(outbox.deliver)
    for job in jobs:
        assert "".join([delta.text async for delta in job]) == "ab"
        assert (job.state, job.produced) == ("done", 2)


def test_a_loop_that_has_ended_is_told_nothing() -> None:
    loop = asyncio.new_event_loop()
    outbox, job = Outbox(), _job(loop)
    outbox.post(job, Mark.STARTED)
    loop.close()
    outbox.deliver()
    assert job.state == "waiting"
