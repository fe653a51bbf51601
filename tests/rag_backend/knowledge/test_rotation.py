"""Turns: nobody waits long behind a long file."""

from __future__ import annotations

from rag_backend.knowledge.jobs import Job, Slice
from rag_backend.knowledge.rotation import TURN, Rotation


def job(name: str, size: int) -> Job:
    return Job("store", name, size=size, texts=lambda start, stop: ["x"] * (stop - start))


def sizes(slices: list[Slice]) -> list[tuple[str, int, int]]:
    return [(part.job.file_id, part.start, part.stop) for part in slices]


def test_a_short_file_is_in_the_next_batch() -> None:
    rotation = Rotation()
    long, short = job("long", 20_000), job("short", 2)
    rotation.add(long)
    assert sizes(rotation.take(512)[0])[-1] == ("long", 512 - TURN, 512)
    rotation.add(short)
    slices, ended = rotation.take(512)
    assert sizes(slices)[:2] == [("long", 512, 512 + TURN), ("short", 0, 2)]
    assert ended == [short]


def test_everything_is_taken_once_and_in_order() -> None:
    rotation = Rotation()
    jobs = [job("a", 1000), job("b", 0), job("c", 129), job("d", 1)]
    for each in jobs:
        rotation.add(each)
    seen: dict[str, list[int]] = {}
    ended = []
    while True:
        slices, over = rotation.take(300)
        if not slices and not over:
            break
        ended += over
        assert sum(part.stop - part.start for part in slices) <= 300
        for part in slices:
            seen.setdefault(part.job.file_id, []).extend(range(part.start, part.stop))
    assert {
        name: numbers == list(range(len(numbers))) for name, numbers in seen.items()
    } == dict.fromkeys("abcd", True)
    assert [len(seen[name]) for name in "abcd"] == [1000, 0, 129, 1]
    assert set(ended) == set(jobs)


def test_an_empty_file_has_one_empty_slice() -> None:
    (only,) = job("a", 0).take(10)
    assert only.is_last
    assert only.ids == []


def test_a_job_that_has_ended_gives_nothing() -> None:
    over = job("a", 500)
    over.take(100)
    over.ended = True
    assert over.take(100) == []
    assert over.exhausted


def test_chunks_that_are_gone_end_the_job() -> None:
    gone = Job("store", "a", size=5, texts=lambda start, stop: ["x"])
    assert gone.take(10) == []
    assert gone.ended
